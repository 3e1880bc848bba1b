"""Files of test cases with their answers and labels, in three formats: HarmBench's, JailbreakBench's and ours.

Ours is JSONL, one record a test case, and holds all that the others hold. HarmBench (arXiv 2402.04249) has three files
of one shape, a list of test cases for each behavior: the prompts alone, with completions, and with labels too.
JailbreakBench (arXiv 2404.01318) has artifacts: the results of one attack on one model, a row for each behavior.

Conventions of the reader:
1. HarmBench's files name no attack: the file's name is taken for it. Their behaviors are `harmbench/…` here, unless the
   file was written here and names another source. A behavior with an empty list is one that no prompt was found for.
2. An artifact's row without a prompt is kept: it counts in the attack success rate, and gives no test case.
3. The success rate is that of the rows' own labels. An artifact's parameters count jailbreaks in another way.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, TypeAdapter, ValidationError

from safereason.attacks.base import TestCase
from safereason.data.sources import harmbench, jailbreakbench
from safereason.data.sources.base import published_rows
from safereason.engines.base import Message
from safereason.errors import InputError
from safereason.files import json_type, read_json
from safereason.runs.directory import rows_of
from safereason.runs.records import Record, line_of

CaseFormat = Literal["harmbench", "jailbreakbench", "jsonl"]
CASES = "cases.jsonl"
"""File name of the test cases in the run of an attack."""
CASE_FORMATS: tuple[CaseFormat, ...] = get_args(CaseFormat)


def _require_turn(message: Message) -> Message:
    """The message, if it has a role and a content alone; pydantic turns the error into its own."""
    if message.keys() != {"role", "content"}:
        raise ValueError("a turn has a role and a content")
    return message


@dataclass(frozen=True)
class CaseRecord:
    """A test case with its answer and label: one record of our format. Its fields are the columns."""

    behavior: str
    """Id of the behavior, `source/…`."""
    attack: str
    prompt: str | None
    """The last user message; None if the attack found no prompt."""
    turns: tuple[Annotated[Message, AfterValidator(_require_turn)], ...] = ()
    """Messages before the prompt."""
    prefix: str | None = None
    """Beginning of the completion, as in `TestCase`."""
    completion: str | None = None
    """Saved output, as in `TestCase`."""
    generation: str | None = None
    """A target model's answer to the prompt; None without one."""
    label: bool | None = None
    """Whether the answer complies with the behavior; None without a verdict."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further JSON values about the case. Unknown columns of a record are put here."""

    @property
    def case(self) -> TestCase | None:
        """The test case; None without a prompt."""
        if self.prompt is None:
            return None
        return TestCase(self.behavior, self.attack, self.prompt, self.turns, self.prefix, self.completion, self.details)


COLUMNS = tuple(f.name for f in fields(CaseRecord))
_CASE_RECORD = TypeAdapter(CaseRecord)


@dataclass(frozen=True)
class ExportedFile:
    """The content of a file to write."""

    content: bytes
    notes: tuple[str, ...] = ()
    """Losses of the conversion, one line each: parts of a record that the format cannot hold."""


def read_cases(path: Path) -> list[TestCase]:
    """The test cases of a file in any of the formats; a behavior without a prompt has none.

    Raises:
        InputError: As `read`.
    """
    cases: list[TestCase] = []
    for record in read(path):
        if record.case is not None:
            cases.append(record.case)
    return cases


def file_of(path: Path) -> Path:
    """The file itself, or the file of test cases in the run of an attack.

    Raises:
        InputError: A directory holds none.
    """
    if not path.is_dir():
        return path
    if not (path / CASES).is_file():
        raise InputError(f"{path}: holds no {CASES}; name a run of an attack, or a file of test cases")
    return path / CASES


def read(path: Path) -> list[CaseRecord]:
    """All records of a file, or of a run of an attack, in any of the formats.

    Raises:
        InputError: The file cannot be read, has none of the formats, has no record, or one of its rows is invalid.
    """
    path = file_of(path)
    document = _read_document(path)
    if document is None:
        records = [_check_record(row, f"{path}: row {number}") for number, row in enumerate(rows_of(path), start=1)]
    elif "jailbreaks" in document:
        records = _read_artifact(document, path)
    else:
        records = _read_harmbench(document, path)
    if not records:
        raise InputError(f"{path}: holds no test case; check the path")
    return records


def attack_success_rate(records: Iterable[CaseRecord]) -> float | None:
    """The share of positive labels among all records, those without a prompt included.

    None if there is no record, or one with a prompt has no label.
    """
    labels: list[bool] = []
    for record in records:
        if record.label is not None:
            labels.append(record.label)
        elif record.prompt is None:
            # An attack that found no prompt has failed, and leaving it out would flatter the rate.
            labels.append(False)
        else:
            return None
    if not labels:
        return None
    return sum(labels) / len(labels)


def write(records: Sequence[CaseRecord], to: CaseFormat) -> ExportedFile:
    """The content of a file of this format.

    Raises:
        InputError: They do not fit an artifact, which has one attack and JailbreakBench's behaviors.
    """
    return _WRITERS[to](records)


def _read_document(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file of HarmBench or JailbreakBench; None for JSONL.

    Raises:
        InputError: The file cannot be read, or is in none of the formats.
    """
    if _begins_with_record(path):
        return None
    try:
        document = read_json(path)
    except InputError as error:
        # A missing or unreadable file has no format at all.
        if isinstance(error.__cause__, OSError) or path.suffix != ".jsonl":
            raise
        # JSONL with a mistake in its first line: the reader of JSONL says which line is wrong.
        return None
    if isinstance(document, dict) and ("jailbreaks" in document or _has_only_lists(document)):
        return document
    raise InputError(
        f"{path}: in none of the formats; test cases are read from HarmBench's files, JailbreakBench's "
        "artifacts, and JSONL with a behavior, an attack and a prompt in each line"
    )


def _begins_with_record(path: Path) -> bool:
    """Whether a file is JSONL in our format, or empty."""
    try:
        first = next(rows_of(path), None)
    except InputError:
        # Perhaps a JSON document over several lines.
        return False
    # HarmBench's file may be one line of JSON, too, but its values are lists.
    return first is None or isinstance(first.get("behavior"), str)


def _has_only_lists(document: Mapping[str, object]) -> bool:
    """Whether all values of an object are lists, as in HarmBench's files."""
    return all(isinstance(value, list) for value in document.values())


def _check_record(row: Record, where: str, names: Mapping[str, str] | None = None) -> CaseRecord:
    """The record of a row.

    Args:
        row: Columns, with others than ours as details.
        where: Beginning of error messages.
        names: Names that the file has for our columns, for error messages.

    Raises:
        InputError: A column is missing or of the wrong type.
    """
    columns: Record = {}
    other_columns: Record = {}
    for name, value in row.items():
        if name in COLUMNS:
            columns[name] = value
        else:
            other_columns[name] = value
    # A record may have null for both, which the columns' types do not allow.
    columns["turns"] = columns.get("turns") or ()
    details = columns.get("details") or {}
    if isinstance(details, dict):
        columns["details"] = {**other_columns, **details}
    try:
        return _CASE_RECORD.validate_python(columns)
    except ValidationError as error:
        first = error.errors()[0]
        column = str(first["loc"][0])
        if names is not None:
            column = names.get(column, column)
        raise InputError(f"{where}: `{column}`: {first['msg'].lower()}; mend the file") from error


def _read_harmbench(document: Mapping[str, list[object]], path: Path) -> list[CaseRecord]:
    """The records of HarmBench's file: each entry is a prompt, or a prompt with its completion, and perhaps a label."""
    records: list[CaseRecord] = []
    for name, entries in document.items():
        behavior = name
        # An id with a source was written by `_write_harmbench`.
        if "/" not in name:
            behavior = f"{harmbench.SOURCE.name}/{name}"
        # Kept without a prompt, so that the behavior counts in the success rate.
        if not entries:
            records.append(CaseRecord(behavior, path.stem, None))
        for number, entry in enumerate(entries, start=1):
            where = f"{path}: behavior {name}: test case {number}"
            records.append(_check_record(_harmbench_row(entry, behavior, path.stem, where), where))
    return records


def _harmbench_row(entry: object, behavior: str, attack: str, where: str) -> Record:
    """The columns of one entry of HarmBench's file; its further keys become details."""
    keys: Record = {"test_case": entry}
    if isinstance(entry, dict):
        keys = dict(entry)
    if not isinstance(keys.get("test_case"), str):
        raise InputError(f"{where}: `test_case` is {keys.get('test_case')!r:.60}; text is expected")
    row: Record = {"behavior": behavior, "attack": attack, "prompt": keys.pop("test_case")}
    for key in ("generation", "label"):
        if key in keys:
            row[key] = keys.pop(key)
    row["details"] = keys
    return row


_ARTIFACT_NAMES = {"prompt": "prompt", "generation": "response", "label": "jailbroken"}
"""Our columns, with their names in an artifact."""
_BEHAVIOR_DETAILS = frozenset(("goal", "topic", "category"))
"""Details that an artifact repeats of the behavior; it calls the topic `behavior`."""


def _read_artifact(document: Mapping[str, Any], path: Path) -> list[CaseRecord]:
    """The records of JailbreakBench's artifact."""
    parameters = document.get("parameters")
    jailbreaks = document["jailbreaks"]
    if not isinstance(parameters, dict) or not isinstance(parameters.get("method"), str):
        raise InputError(f"{path}: its `parameters` name no `method`; get the artifact as it is published")
    if not isinstance(jailbreaks, list):
        raise InputError(f"{path}: its `jailbreaks` are no list; get the artifact as it is published")
    records: list[CaseRecord] = []
    for number, row in enumerate(jailbreaks, start=1):
        records.append(_read_jailbreak(row, parameters, f"{path}: jailbreak {number}"))
    return records


def _read_jailbreak(row: object, parameters: Record, where: str) -> CaseRecord:
    """The record of one row of an artifact."""
    if not isinstance(row, dict):
        raise InputError(f"{where}: a JSON object is expected, not {json_type(row)}")
    for column in ("index", "prompt", "jailbroken"):
        if column not in row:
            raise InputError(f"{where}: no column `{column}`; get the artifact as it is published")
    # The index becomes a part of the behavior's id.
    if not isinstance(row["index"], int):
        raise InputError(f"{where}: `index` is {row['index']!r:.60}; a whole number is expected")
    # The published artifacts have further columns, such as the labels of other judges.
    known_names = ("index", "behavior", *_ARTIFACT_NAMES.values())
    details: Record = {name: value for name, value in row.items() if name not in known_names}
    details["topic"] = row.get("behavior")
    details["model"] = parameters.get("model")
    record: Record = {
        "behavior": f"{jailbreakbench.SOURCE.name}/{row['index']}",
        "attack": parameters["method"],
        "details": details,
    }
    for column, artifact_name in _ARTIFACT_NAMES.items():
        record[column] = row.get(artifact_name)
    return _check_record(record, where, _ARTIFACT_NAMES)


def _write_jsonl(records: Sequence[CaseRecord]) -> ExportedFile:
    """Our own format, which holds all columns."""
    return ExportedFile(b"".join(line_of(asdict(record)) for record in records))


def _write_harmbench(records: Sequence[CaseRecord]) -> ExportedFile:
    """HarmBench's file: prompts alone, or with completions and labels if any record has one."""
    has_results = any(record.generation is not None or record.label is not None for record in records)
    document: dict[str, list[object]] = {}
    without_prompt = 0
    for record in records:
        # A behavior without a prompt keeps an empty list, so that it still counts in the success rate.
        entries = document.setdefault(_harmbench_name(record.behavior), [])
        if record.prompt is None:
            without_prompt += 1
        elif has_results:
            entries.append(_harmbench_entry(record))
        else:
            entries.append(record.prompt)
    notes = _note_lost_columns(records, ("attack", "turns", "prefix", "completion", "details"), "HarmBench's files")
    if without_prompt:
        notes += (f"without a prompt, so that their list is empty: {without_prompt}",)
    return ExportedFile(_json_bytes(document), notes)


def _harmbench_name(behavior: str) -> str:
    """HarmBench's own id; another source's id stays whole, so that the reader can tell them apart."""
    source, _, name = behavior.partition("/")
    if source == harmbench.SOURCE.name and "/" not in name:
        return name
    return behavior


def _harmbench_entry(record: CaseRecord) -> dict[str, object]:
    """The entry of a record with a prompt; labels are 0 or 1."""
    entry: dict[str, object] = {"test_case": record.prompt}
    if record.generation is not None:
        entry["generation"] = record.generation
    # HarmBench's own files have 0 and 1.
    if record.label is not None:
        entry["label"] = int(record.label)
    return entry


def _write_artifact(records: Sequence[CaseRecord]) -> ExportedFile:
    """JailbreakBench's artifact with the first test case of each behavior."""
    methods = sorted({record.attack for record in records})
    if len(methods) != 1:
        raise InputError(
            f"an artifact is of one attack, and here are {', '.join(methods) or 'none'}; convert each apart"
        )
    firsts = _first_of_each_behavior(records)
    jailbreaks = _artifact_rows(firsts)
    parameters = _artifact_parameters(methods[0], firsts, jailbreaks)
    notes = _note_lost_columns(firsts, ("turns", "prefix", "completion"), "artifacts")
    further = len(records) - len(firsts)
    if further:
        notes += (f"further test cases of a behavior, of which an artifact has one: {further}",)
    unlabelled = sum(record.label is None for record in firsts)
    if unlabelled:
        notes += (f"without a label, so that `jailbroken` is null where true or false is expected: {unlabelled}",)
    return ExportedFile(_json_bytes({"parameters": parameters, "jailbreaks": jailbreaks}), notes)


def _first_of_each_behavior(records: Sequence[CaseRecord]) -> list[CaseRecord]:
    """The first record of each behavior, in the order in which behaviors come last."""
    by_behavior: dict[str, CaseRecord] = {}
    # Backwards, so that the first record of a behavior is the one that stays in the dictionary.
    for record in reversed(records):
        by_behavior[record.behavior] = record
    return list(by_behavior.values())[::-1]


def _artifact_rows(records: Sequence[CaseRecord]) -> list[dict[str, object]]:
    """An artifact's row for each record. The behaviors' details are looked up if a record lacks them."""
    details_by_behavior: dict[str, dict[str, str]] = {}
    if any(not record.details.keys() >= _BEHAVIOR_DETAILS for record in records):
        details_by_behavior = _read_behavior_details()
    jailbreaks: list[dict[str, object]] = []
    for record in records:
        details = {**details_by_behavior.get(record.behavior, {}), **record.details}
        jailbreaks.append(_artifact_row(record, details))
    return jailbreaks


def _artifact_parameters(
    method: str, records: Sequence[CaseRecord], jailbreaks: Sequence[Mapping[str, object]]
) -> dict[str, object]:
    """An artifact's parameters. A person fills in those that no record has; they are null."""
    labelled_as_jailbreak = 0
    with_prompt = 0
    for record in records:
        if record.label is True:
            labelled_as_jailbreak += 1
        if record.prompt is not None:
            with_prompt += 1
    return {
        "method": method,
        "model": _common_model(records),
        "attack_type": None,
        "defense": None,
        "attack_success_rate": attack_success_rate(records),
        "total_number_of_jailbreaks": labelled_as_jailbreak,
        "number_of_submitted_prompts": with_prompt,
        "total_number_of_queries": _column_total(jailbreaks, "number_of_queries"),
        "total_prompt_tokens": _column_total(jailbreaks, "prompt_tokens"),
        "total_response_tokens": _column_total(jailbreaks, "response_tokens"),
        "evaluation_date": None,
        "evaluation_llm_provider": None,
        "method_parameters": {},
    }


def _common_model(records: Sequence[CaseRecord]) -> object:
    """The model that all records name; None if they name different ones."""
    model = records[0].details.get("model")
    for record in records:
        if record.details.get("model") != model:
            return None
    return model


def _artifact_row(record: CaseRecord, details: Mapping[str, Any]) -> dict[str, object]:
    """One row of an artifact; its keys have the order of the published ones.

    Raises:
        InputError: The behavior is none of JailbreakBench's.
    """
    source, _, index = record.behavior.partition("/")
    if source != jailbreakbench.SOURCE.name or not index.isdecimal() or not details.keys() >= _BEHAVIOR_DETAILS:
        raise InputError(
            f"behavior {record.behavior}: is none of JailbreakBench's, which an artifact is of; "
            "convert to harmbench or jsonl"
        )
    return {
        "index": int(index),
        "goal": details["goal"],
        "behavior": details["topic"],
        "category": details["category"],
        "prompt": record.prompt,
        "response": record.generation,
        # `queries` is the column of our own runs of attacks.
        "number_of_queries": details.get("number_of_queries", details.get("queries")),
        "queries_to_jailbreak": details.get("queries_to_jailbreak"),
        "prompt_tokens": details.get("prompt_tokens"),
        "response_tokens": details.get("response_tokens"),
        "jailbroken": record.label,
    }


def _read_behavior_details() -> dict[str, dict[str, str]]:
    """Goal, topic and category of JailbreakBench's behaviors, by their ids."""
    details_by_behavior: dict[str, dict[str, str]] = {}
    for row in published_rows(jailbreakbench.FILE):
        # Rows count from 1, and JailbreakBench's indices from 0.
        behavior = f"{jailbreakbench.SOURCE.name}/{row.number - 1}"
        details_by_behavior[behavior] = {"goal": row["Goal"], "topic": row["Behavior"], "category": row["Category"]}
    return details_by_behavior


def _column_total(jailbreaks: Sequence[Mapping[str, object]], column: str) -> int | None:
    """The sum of a column; None if it is no number in one of the rows."""
    # A sum of the rows that have a number would look like the total of all.
    total = 0
    for row in jailbreaks:
        value = row[column]
        if not isinstance(value, int):
            return None
        total += value
    return total


def _note_lost_columns(records: Sequence[CaseRecord], columns: Sequence[str], where: str) -> tuple[str, ...]:
    """A line about the columns that a format lacks, with the number of records that use each; empty if none does."""
    lost: list[str] = []
    for column in columns:
        count = sum(bool(getattr(record, column)) for record in records)
        if count:
            lost.append(f"{column} ({count})")
    if not lost:
        return ()
    return (f"left out, as {where} have no place for it: {', '.join(lost)}",)


def _json_bytes(document: object) -> bytes:
    """Indented JSON in ASCII, so that half a surrogate pair in a completion does no harm."""
    return json.dumps(document, indent=2).encode() + b"\n"


_WRITERS: dict[CaseFormat, Callable[[Sequence[CaseRecord]], ExportedFile]] = {
    "harmbench": _write_harmbench,
    "jailbreakbench": _write_artifact,
    "jsonl": _write_jsonl,
}
