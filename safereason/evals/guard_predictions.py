r"""A guard's predictions as records: our own, and those that other programs wrote to a JSONL file.

The first row says which of three forms a file has:

- `expected` and `label`: our `predictions.jsonl`, which holds all that scoring needs;
- `predict` and `label`: texts, as LLaMA-Factory writes them; `read_verdict` says how they are read;
- `label` alone: `guard classify`'s rows, which are joined to the labelled rows of a source by `id`, or by their number.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from safereason.data import rsafe_mix
from safereason.data.example import Example
from safereason.errors import InputError
from safereason.evals.guard_suite import Row
from safereason.runs.directory import rows_of
from safereason.runs.records import Record
from safereason.text import verdict
from safereason.text.verdict import Label

About = Literal["prompt", "response"]
"""What a set's labels are about: what users ask, or what an agent replied."""

TAIL = 100
"""Characters at the end of a text in which its last words are looked for."""

_WORDS: dict[str, Label] = {
    "unsafe": "unsafe",
    "harmful": "unsafe",
    "safe": "safe",
    "unharmful": "safe",
    "harmless": "safe",
}
_WORD = "|".join(_WORDS)
_FIRST_LINE = re.compile(rf"\s*({_WORD})\W*(?:\n|\Z)", re.IGNORECASE)
_WRITTEN = re.compile(r"\w+")
_SPOKEN = re.compile(r"[\w'’]+")
_LETTERS = re.compile(r"[a-z]+")
_IN_NAMES: dict[About, set[str]] = {
    "prompt": {"prompt", "prompts", "request", "requests"},
    "response": {"response", "responses", "reply", "replies"},
}
"""Words in the name of a set that say what it is about."""
_ABOUT: dict[str, About] = {"request": "prompt", "response": "response"}
_UNDECIDED = re.compile(r"not|never|or|nor|n?either|\w+n['’]t", re.IGNORECASE)
"""Before its last word a text that ends so names no verdict, or the other one."""


@dataclass(frozen=True)
class Prediction:
    """One labelled row and what a guard said of it: a line of `predictions.jsonl`."""

    id: str
    """Unique in its set."""
    set: str
    expected: Label
    label: Label | None
    score: float | None = None
    """Probability of `unsafe`."""
    categories: tuple[str, ...] = ()
    """Ids of the policy's categories that the guard named."""
    reasoning: str = ""
    text: str = ""
    reason: str | None = None
    """Why there is no verdict."""
    failed: bool = False
    """Whether the guard could not be asked, as where its server failed."""
    tokens: int = 0
    prompt: str = ""
    response: str | None = None
    harms: tuple[str, ...] = ()
    """The row's own categories, by its source."""

    @property
    def row(self) -> Row:
        """What its figures are made of."""
        return Row(self.set, self.expected, self.label, self.score, self.harms)

    def record(self) -> Record:
        """The line of JSON it is kept as."""
        return {**asdict(self), "categories": list(self.categories), "harms": list(self.harms)}


_CHECK = TypeAdapter(Prediction)


def from_record(record: Record, where: str) -> Prediction:
    """Reads a line of `predictions.jsonl` back.

    Raises:
        InputError: It is none; the message begins with `where`.
    """
    known: dict[str, Any] = {k: v for k, v in record.items() if k in Prediction.__dataclass_fields__}
    lists = {name: record.get(name) or () for name in ("categories", "harms")}
    try:
        made = _CHECK.validate_python({**known, **lists})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{where}: no prediction: `{first['loc'][0]}`: {first['msg'].lower()}; "
            "`id`, `set`, `expected` and `label` are needed"
        ) from error
    _check(made.label, made.score, where)
    return made


def read_file(
    path: Path, sets: Sequence[str], about: About | None, source: Callable[[str], list[Example]]
) -> list[Prediction]:
    """Reads a file of any of the three forms.

    Args:
        path: JSONL.
        sets: Of our own predictions, the sets to take (none named takes all); else the one set that the rows are of.
        about: Which verdict of a text counts that has one on the request and one on the response; by default the
            one that the set's name or the texts say.
        source: Reads the examples of a source, for the rows of `guard classify`.

    Raises:
        InputError: The file cannot be read, has another form, or does not fit the source; or nothing says what the set
            is about.
    """
    rows = [_whole(row) for row in rows_of(path)]
    if not rows:
        raise InputError(f"{path}: holds no rows; give a JSONL file of predictions")
    numbered = [(f"{path}: row {number}", row) for number, row in enumerate(rows, start=1)]
    if "expected" in rows[0]:
        return _own(path, numbered, sets)
    if len(sets) > 1:
        raise InputError(f"--set: the rows of {path} are of one set; name one")
    if "predict" in rows[0]:
        name = sets[0] if sets else path.stem
        return list(_texts(numbered, name, about or _about(path, name, rows)))
    if "label" not in rows[0]:
        raise InputError(f"{path}: row 1: has no `label`; predictions have `label` and `predict`, or `label` and `id`")
    if not sets:
        raise InputError(f"{path}: holds verdicts without the right answers; name their source with --set")
    return list(_joined(numbered, sets[0], source(sets[0])))


def read_verdict(text: str, about: About = "prompt") -> Label | None:
    r"""The verdict in what any guard wrote; None where no rule finds one. Case does not matter.

    1. Where there is a `\boxed{…}`, the last one decides, and it holds a word alone.
    2. Else the last `Request: WORD`, or `Response: WORD`, whichever the set is about; only the other one: none.
       Either has a line of its own, or shares one with others of the kind between commas.
    3. Else a first line that is one word (as Llama Guard writes, before its categories).
    4. Else the word that the text ends in, unless `not`, `or` or the like stands before it.

    A word is `unsafe` or `harmful`; or `safe`, `unharmful` or `harmless`.
    """
    if verdict.BOX in text:
        return _WORDS.get((verdict.last_boxed(text) or "").strip().lower())
    if named := named_verdicts(text):
        return named.get(about)
    if first := _FIRST_LINE.match(text):
        return _WORDS[first.group(1).lower()]
    words = _SPOKEN.findall(text.rstrip()[-TAIL:])
    before, last = ("", "", *words)[-2:]
    return None if _UNDECIDED.fullmatch(before) else _WORDS.get(last.strip("'’").lower())


def named_verdicts(text: str) -> dict[About, Label]:
    """The verdicts in lines such as `Request: harmful`; several may share a line, `Request: …, Response: …`.

    The last line counts. One with anything but names and words between commas does not.
    """
    found: dict[About, Label] = {}
    for line in text.split("\n"):
        fields = [part.partition(":") for part in line.split(",")]
        named = [(_WRITTEN.findall(name.lower()), _WRITTEN.findall(word.lower())) for name, _, word in fields]
        if not all(len(name) == len(word) == 1 for name, word in named):
            continue
        for (name,), (word,) in named:
            if name in _ABOUT and word in _WORDS:
                found[_ABOUT[name]] = _WORDS[word]
    return found


def _whole(value: Any) -> Any:
    """JSON whose texts can be written: half a surrogate pair is legal in JSON and in no file."""
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _own(path: Path, numbered: Sequence[tuple[str, Record]], sets: Sequence[str]) -> list[Prediction]:
    found = [from_record(row, where) for where, row in numbered]
    there = dict.fromkeys(p.set for p in found)
    unknown = [name for name in sets if name not in there]
    if unknown:
        raise InputError(f"--set {unknown[0]}: {path} has no such set; it has {', '.join(there)}")
    return [p for p in found if not sets or p.set in sets]


def _about(path: Path, name: str, rows: Sequence[Record]) -> About:
    """What a set is about, by its name; else by what its texts give verdicts on."""
    words = set(_LETTERS.findall(name.lower()))
    by_name = {about for about, named in _IN_NAMES.items() if words & named}
    if len(by_name) == 1:
        return by_name.pop()
    texts = [text for row in rows for text in (row.get("predict"), row.get("label")) if isinstance(text, str)]
    named = {about for text in texts if verdict.BOX not in text for about in named_verdicts(text)}
    if len(named) > 1:
        raise InputError(
            f"--task: the texts of {path} give a verdict on the request and one on the response; say which the set "
            "is about, with --task prompt or --task response"
        )
    return named.pop() if named else "prompt"


def _texts(numbered: Sequence[tuple[str, Record]], name: str, about: About) -> Iterator[Prediction]:
    for number, (where, row) in enumerate(numbered, start=1):
        if not isinstance(row.get("predict"), str) or not isinstance(row.get("label"), str):
            raise InputError(f"{where}: `label` and `predict` are to be texts, as LLaMA-Factory writes them")
        expected, label = read_verdict(row["label"], about), read_verdict(row["predict"], about)
        if expected is None:
            raise InputError(f"{where}: its `label` names no right answer; it has to say safe or unsafe")
        reason = None if label else "the text names no verdict"
        prompt = str(row.get("prompt") or "")
        yield Prediction(f"{name}/{number}", name, expected, label, text=row["predict"], reason=reason, prompt=prompt)


def _joined(numbered: Sequence[tuple[str, Record]], name: str, examples: Sequence[Example]) -> Iterator[Prediction]:
    by_id = {example.id: example for example in examples}
    with_ids = all(str(row.get("id")) in by_id for _, row in numbered)
    if with_ids and len({str(row["id"]) for _, row in numbered}) < len(numbered):
        raise InputError(f"{numbered[0][0].rpartition(': ')[0]}: an id is there more than once; give each row its own")
    if not with_ids and len(numbered) != len(examples):
        raise InputError(
            f"{numbered[0][0].rpartition(': ')[0]}: has {len(numbered)} rows and source {name} "
            f"{len(examples)}, and their ids do not match; keep `id` in the rows"
        )
    for place, (where, row) in enumerate(numbered):
        example = by_id[str(row["id"])] if with_ids else examples[place]
        if row.get("prompt", example.prompt) != example.prompt:
            raise InputError(f"{where}: is about another prompt than {example.id}; keep `id` in the rows")
        label, score = row.get("label"), row.get("score")
        _check(label, score, where)
        said = {key: row[key] for key in ("reasoning", "text", "reason", "failed") if row.get(key)}
        named = row.get("categories") or ()
        if not (isinstance(named, (list, tuple)) and all(isinstance(name, str) for name in named)):
            raise InputError(f"{where}: `categories` is {named!r:.60}; a list of texts is expected")
        for key in ("reasoning", "text", "reason"):
            if not isinstance(row.get(key) or "", str):
                raise InputError(f"{where}: `{key}` is {row[key]!r:.60}; text is expected")
        for labelled in rsafe_mix.labelled([example]):
            yield of_example(labelled, name, label=label, score=score, categories=tuple(named), **said)


def of_example(example: Example, name: str, **found: Any) -> Prediction:
    """What was found of a labelled example of a set.

    Raises:
        ValueError: The example has no label.
    """
    if example.label is None:
        raise ValueError(f"{example.id} has no label")
    return Prediction(
        id=example.id,
        set=name,
        expected=example.label,
        prompt=example.prompt,
        response=example.response,
        harms=example.categories,
        **found,
    )


def _check(label: Any, score: Any, where: str) -> None:
    if label not in (None, "safe", "unsafe"):
        raise InputError(f"{where}: `label` is {label!r}; `safe`, `unsafe` or null is expected")
    is_number = isinstance(score, (int, float)) and not isinstance(score, bool)
    if score is not None and not (is_number and 0 <= score <= 1):
        raise InputError(f"{where}: `score` is {score!r}; a number from 0 to 1, or null, is expected")
