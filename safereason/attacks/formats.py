"""Test cases and what became of them, in the formats that people exchange: HarmBench's, JailbreakBench's and ours.

Ours is JSONL, one record a test case, and holds all that the others hold. HarmBench (arXiv 2402.04249) has three files
of one shape, a list of test cases for each behavior: the prompts alone, with completions, and with labels too.
JailbreakBench (arXiv 2404.01318) has artifacts: what one attack did to one model, a row for each of its behaviors.

What is read in which way:
1. HarmBench's files name no attack: the file's name stands for it. Their behaviors are `harmbench/…` here, unless the
   file was written here and names another source. A behavior with an empty list is one that no prompt was found for.
2. An artifact's row without a prompt is kept: it counts in the attack success rate, and gives no test case.
3. The success rate is that of the rows' own labels. An artifact's parameters count jailbreaks in another way.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, TypeAdapter, ValidationError

from safereason.attacks.base import TestCase
from safereason.data.sources import harmbench, jailbreakbench
from safereason.data.sources.base import rows
from safereason.engines.base import Message
from safereason.errors import InputError
from safereason.files import json_type, read_json
from safereason.runs.directory import rows_of
from safereason.runs.records import Record, line_of

Format = Literal["harmbench", "jailbreakbench", "jsonl"]
CASES = "cases.jsonl"
"""The file of a run of an attack that holds its test cases."""
FORMATS: tuple[Format, ...] = get_args(Format)


def _message(message: Message) -> Message:
    if message.keys() != {"role", "content"}:
        raise ValueError("a turn has a role and a content")
    return message


@dataclass(frozen=True)
class Found:
    """A test case and what became of it: one record of our format, with these columns."""

    behavior: str
    """Id of the behavior, `source/…`."""
    attack: str
    prompt: str | None
    """What the user says last; None where the attack found nothing."""
    turns: tuple[Annotated[Message, AfterValidator(_message)], ...] = ()
    """What was said before."""
    prefix: str | None = None
    """As of a test case."""
    completion: str | None = None
    """As of a test case."""
    generation: str | None = None
    """What a target answered; None where it was not asked."""
    label: bool | None = None
    """Whether that is what the behavior asks for; None where nobody judged."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of it, as JSON has it. Further columns of a record are put here."""

    @property
    def case(self) -> TestCase | None:
        """The test case, where there is a prompt."""
        if self.prompt is None:
            return None
        return TestCase(self.behavior, self.attack, self.prompt, self.turns, self.prefix, self.completion, self.details)


COLUMNS = tuple(f.name for f in fields(Found))
_CHECK = TypeAdapter(Found)


@dataclass(frozen=True)
class Written:
    """A file's content."""

    content: bytes
    notes: tuple[str, ...] = ()
    """What the format could not hold, a line each."""


def read_cases(path: Path) -> list[TestCase]:
    """The test cases of a file in any of the formats; a behavior that no prompt was found for has none.

    Raises:
        InputError: As `read`.
    """
    return [case for found in read(path) if (case := found.case) is not None]


def file_of(path: Path) -> Path:
    """The file itself, or that of a run of an attack.

    Raises:
        InputError: A directory holds none.
    """
    if not path.is_dir():
        return path
    if not (path / CASES).is_file():
        raise InputError(f"{path}: holds no {CASES}; name a run of an attack, or a file of test cases")
    return path / CASES


def read(path: Path) -> list[Found]:
    """All that a file, or a run of an attack, holds, in whichever of the formats it is.

    Raises:
        InputError: It cannot be read, is in none of the formats, holds nothing, or a row is not as it should be.
    """
    path = file_of(path)
    document = _document(path)
    if document is None:
        found = [_from_record(record, f"{path}: row {n}") for n, record in enumerate(rows_of(path), start=1)]
    else:
        found = (_from_artifact if "jailbreaks" in document else _from_lists)(document, path)
    if not found:
        raise InputError(f"{path}: holds no test case; check the path")
    return found


def attack_success_rate(found: Sequence[Found]) -> float | None:
    """The share of all rows whose label says so, those without a prompt included.

    None where there is no row, or one with a prompt was not judged.
    """
    labels = [False if row.label is None and row.prompt is None else row.label for row in found]
    return None if not labels or None in labels else sum(map(bool, labels)) / len(labels)


def write(found: Sequence[Found], to: Format) -> Written:
    """The content of a file of this format.

    Raises:
        InputError: They are not what an artifact is of: one attack, and JailbreakBench's behaviors.
    """
    return _WRITERS[to](found)


def _document(path: Path) -> dict[str, Any] | None:
    """A file that is one JSON object of HarmBench's or JailbreakBench's shape; None where it is JSONL."""
    if _begins_with_a_row(path):
        return None
    try:
        document = read_json(path)
    except InputError as error:
        if isinstance(error.__cause__, OSError) or path.suffix != ".jsonl":
            raise
        return None  # its reader says which line is wrong
    if isinstance(document, dict) and ("jailbreaks" in document or _is_lists(document)):
        return document
    raise InputError(
        f"{path}: in none of the formats; test cases are read from HarmBench's files, JailbreakBench's "
        "artifacts, and JSONL with a behavior, an attack and a prompt in each line"
    )


def _begins_with_a_row(path: Path) -> bool:
    """Whether a file is JSONL in our format, or holds nothing."""
    try:
        first = next(rows_of(path), None)
    except InputError:
        return False
    return first is None or isinstance(first.get("behavior"), str)


def _is_lists(document: dict[str, Any]) -> bool:
    return all(isinstance(value, list) for value in document.values())


def _from_record(record: Record, where: str, names: Mapping[str, str] | None = None) -> Found:
    """One record, checked; `names` are what its columns are called in the file, for messages."""
    row = {name: value for name, value in record.items() if name in COLUMNS}
    row["turns"] = row.get("turns") or ()
    details = row.get("details") or {}
    if isinstance(details, dict):
        row["details"] = {**{name: value for name, value in record.items() if name not in COLUMNS}, **details}
    try:
        return _CHECK.validate_python(row)
    except ValidationError as error:
        first = error.errors()[0]
        column = str(first["loc"][0])
        raise InputError(
            f"{where}: `{(names or {}).get(column, column)}`: {first['msg'].lower()}; mend the file"
        ) from error


def _from_lists(document: dict[str, list[Any]], path: Path) -> list[Found]:
    """A file of HarmBench's: each entry is a prompt, or a prompt with its completion, and perhaps a label."""
    found: list[Found] = []
    for name, entries in document.items():
        behavior = name if "/" in name else f"{harmbench.SOURCE.name}/{name}"
        known: Record = {"behavior": behavior, "attack": path.stem}
        if not entries:
            found.append(Found(behavior, path.stem, None))
        for number, entry in enumerate(entries, start=1):
            where = f"{path}: behavior {name}: test case {number}"
            row = dict(entry) if isinstance(entry, dict) else {"test_case": entry}
            if not isinstance(row.get("test_case"), str):
                raise InputError(f"{where}: `test_case` is {row.get('test_case')!r:.60}; text is expected")
            rest = {key: row.pop(key) for key in ("generation", "label") if key in row}
            known |= {"prompt": row.pop("test_case"), "details": row}
            found.append(_from_record({**known, **rest}, where))
    return found


_ARTIFACT = {"prompt": "prompt", "generation": "response", "label": "jailbroken"}
"""Our columns, and what an artifact calls them."""
_TOPIC = frozenset(("goal", "topic", "category"))
"""Details that an artifact repeats of the behavior; `topic` is what it calls `behavior`."""


def _from_artifact(document: dict[str, Any], path: Path) -> list[Found]:
    """An artifact of JailbreakBench's."""
    parameters, jailbreaks = document.get("parameters"), document["jailbreaks"]
    if not isinstance(parameters, dict) or not isinstance(parameters.get("method"), str):
        raise InputError(f"{path}: its `parameters` name no `method`; get the artifact as it is published")
    if not isinstance(jailbreaks, list):
        raise InputError(f"{path}: its `jailbreaks` are no list; get the artifact as it is published")
    return [_from_jailbreak(row, parameters, f"{path}: jailbreak {n}") for n, row in enumerate(jailbreaks, start=1)]


def _from_jailbreak(row: Any, parameters: dict[str, Any], where: str) -> Found:
    if not isinstance(row, dict):
        raise InputError(f"{where}: a JSON object is expected, not {json_type(row)}")
    for column in ("index", "prompt", "jailbroken"):
        if column not in row:
            raise InputError(f"{where}: no column `{column}`; get the artifact as it is published")
    if not isinstance(row["index"], int):
        raise InputError(f"{where}: `index` is {row['index']!r:.60}; a whole number is expected")
    record = {ours: row.get(theirs) for ours, theirs in _ARTIFACT.items()}
    taken = ("index", "behavior", *_ARTIFACT.values())
    details = {key: value for key, value in row.items() if key not in taken}
    details |= {"topic": row.get("behavior"), "model": parameters.get("model")}
    behavior = f"{jailbreakbench.SOURCE.name}/{row['index']}"
    return _from_record(
        {**record, "behavior": behavior, "attack": parameters["method"], "details": details}, where, _ARTIFACT
    )


def _jsonl(found: Sequence[Found]) -> Written:
    return Written(b"".join(line_of(asdict(row)) for row in found))


def _lists(found: Sequence[Found]) -> Written:
    """HarmBench's file with as much as there is: prompts, completions where there are some, and labels."""
    with_answers = any(row.generation is not None or row.label is not None for row in found)
    document: dict[str, list[Any]] = {}
    for row in found:
        entries = document.setdefault(_bare(row.behavior), [])
        if row.prompt is not None:
            entries.append(_entry(row) if with_answers else row.prompt)
    notes = _left_out(found, ("attack", "turns", "prefix", "completion", "details"), "HarmBench's files")
    if empty := sum(row.prompt is None for row in found):
        notes += (f"without a prompt, so that their list is empty: {empty}",)
    return Written(_json(document), notes)


def _bare(behavior: str) -> str:
    """The id as HarmBench has it; another source's stays whole, so that it is told apart when it is read."""
    source, _, name = behavior.partition("/")
    return name if source == harmbench.SOURCE.name and "/" not in name else behavior


def _entry(row: Found) -> dict[str, Any]:
    answer = {} if row.generation is None else {"generation": row.generation}
    return {"test_case": row.prompt, **answer, **({} if row.label is None else {"label": int(row.label)})}


def _artifact(found: Sequence[Found]) -> Written:
    """An artifact with the first test case of each behavior."""
    methods = sorted({row.attack for row in found})
    if len(methods) != 1:
        raise InputError(
            f"an artifact is of one attack, and here are {', '.join(methods) or 'none'}; convert each apart"
        )
    first = list({row.behavior: row for row in reversed(found)}.values())[::-1]
    topics = _topics() if any(not row.details.keys() >= _TOPIC for row in first) else {}
    jailbreaks = [_jailbreak(row, {**topics.get(row.behavior, {}), **row.details}) for row in first]
    model = first[0].details.get("model")
    parameters: dict[str, Any] = {
        "method": methods[0],
        "model": model if all(row.details.get("model") == model for row in first) else None,
        "attack_type": None,
        "defense": None,
        "attack_success_rate": attack_success_rate(first),
        "total_number_of_jailbreaks": sum(row.label is True for row in first),
        "number_of_submitted_prompts": sum(row.prompt is not None for row in first),
        "total_number_of_queries": _total(jailbreaks, "number_of_queries"),
        "total_prompt_tokens": _total(jailbreaks, "prompt_tokens"),
        "total_response_tokens": _total(jailbreaks, "response_tokens"),
        "evaluation_date": None,
        "evaluation_llm_provider": None,
        "method_parameters": {},
    }
    notes = _left_out(first, ("turns", "prefix", "completion"), "artifacts")
    if further := len(found) - len(first):
        notes += (f"further test cases of a behavior, of which an artifact has one: {further}",)
    if unjudged := sum(row.label is None for row in first):
        notes += (f"without a label, so that `jailbroken` is null where true or false is expected: {unjudged}",)
    return Written(_json({"parameters": parameters, "jailbreaks": jailbreaks}), notes)


def _jailbreak(row: Found, details: Mapping[str, Any]) -> dict[str, Any]:
    source, _, index = row.behavior.partition("/")
    if source != jailbreakbench.SOURCE.name or not index.isdecimal() or not details.keys() >= _TOPIC:
        raise InputError(
            f"behavior {row.behavior}: is none of JailbreakBench's, which an artifact is of; "
            "convert to harmbench or jsonl"
        )
    return {
        "index": int(index),
        "goal": details["goal"],
        "behavior": details["topic"],
        "category": details["category"],
        "prompt": row.prompt,
        "response": row.generation,
        "number_of_queries": details.get("number_of_queries", details.get("queries")),
        **{name: details.get(name) for name in ("queries_to_jailbreak", "prompt_tokens", "response_tokens")},
        "jailbroken": row.label,
    }


def _topics() -> dict[str, dict[str, str]]:
    """What an artifact repeats of JailbreakBench's behaviors, by their ids."""
    return {
        f"{jailbreakbench.SOURCE.name}/{row.number - 1}": {
            "goal": row["Goal"],
            "topic": row["Behavior"],
            "category": row["Category"],
        }
        for row in rows(jailbreakbench.FILE)
    }


def _total(jailbreaks: Sequence[Mapping[str, Any]], column: str) -> int | None:
    """The sum over the rows; None where one of them does not say."""
    values = [row[column] for row in jailbreaks]
    return sum(values) if all(isinstance(value, int) for value in values) else None


def _left_out(found: Sequence[Found], columns: Sequence[str], where: str) -> tuple[str, ...]:
    """One line on the columns that a format lacks, with the number of test cases that have something there."""
    counts = {column: sum(bool(getattr(row, column)) for row in found) for column in columns}
    listed = ", ".join(f"{column} ({count})" for column, count in counts.items() if count)
    return (f"left out, as {where} have no place for it: {listed}",) if listed else ()


def _json(document: Any) -> bytes:
    """In ASCII, so that half a surrogate pair in a completion does no harm."""
    return json.dumps(document, indent=2).encode() + b"\n"


_WRITERS: dict[Format, Callable[[Sequence[Found]], Written]] = {
    "harmbench": _lists,
    "jailbreakbench": _artifact,
    "jsonl": _jsonl,
}
