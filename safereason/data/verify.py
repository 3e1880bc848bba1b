"""Checks a file of examples row by row: what is wrong with each bad one, and on which line it stands.

Nothing is kept of a row but its id, so that a file may be larger than memory.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from safereason.data.example import Example, from_row, longest_row, refuse_bomb
from safereason.errors import InputError
from safereason.files import LONGEST_ROW, from_json, json_type
from safereason.text import reasoning

SHOWN = 300
"""Characters of a problem; it may quote a value of any length."""
BATCH = 64
"""Rows of a parquet file decoded at a time."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row."""

    line: int
    """Its line in a JSONL file, else its place from 1."""
    kind: str
    """The problem without the row's own values, to be counted by."""
    text: str
    """The problem."""


@dataclass
class Tally:
    """What a check came to."""

    rows: int = 0
    bad: int = 0
    """Rows with a problem."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Problems by kind."""


@dataclass(frozen=True)
class _Bad:
    """In place of a row that could not be read."""

    kind: str
    text: str


_TOO_LONG = _Bad("too long", f"the row is longer than {LONGEST_ROW >> 20} MiB")


def check(path: Path, tally: Tally) -> Iterator[Problem]:
    """The problems of a person's own file or its description, in the order of the rows; counts them in `tally`.

    Raises:
        InputError: The file cannot be read.
    """
    first: dict[str, int] = {}
    for line, row in _rows(path):
        found = {text: kind for kind, text in _problems(row, line, first)}
        tally.rows += 1
        tally.bad += bool(found)
        tally.kinds.update(found.values())
        for text, kind in found.items():
            yield Problem(line, kind, text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """What each row holds, with its line: columns, an example, or a `_Bad`."""
    read = {".jsonl": _json_lines, ".parquet": _parquet_rows}.get(path.suffix, _own_rows)
    try:
        yield from read(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def _own_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a table, of one list in JSON, of a packed file, or of what a YAML file describes."""
    from safereason.data.sources import files

    if not path.name.endswith(files.SUFFIXES):
        raise InputError(f"{path}: examples are read from {', '.join(files.SUFFIXES)} files")
    for number, make in files.makers(str(path)):
        try:
            yield number, make()
        except InputError as error:
            text = re.sub(rf"^.*?: row {number}: ", "", str(error), flags=re.DOTALL)
            yield number, _Bad(_kind(text), text)


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number in count(1):
            line = file.readline(LONGEST_ROW + 1)
            if not line:
                return
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) > LONGEST_ROW:
                while line and not line.endswith(b"\n"):
                    line = file.readline(LONGEST_ROW)
                yield number, _TOO_LONG
            elif line.strip():
                yield number, _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return from_json(line.decode())
    except ValueError as error:
        if not line.endswith(b"\n"):
            return _Bad("torn", "torn: the file ends inside this row")
        match error:
            case UnicodeDecodeError():
                return _Bad("not UTF-8", f"not UTF-8 (byte {error.start + 1} of the line)")
            case json.JSONDecodeError():
                return _Bad("not JSON", f"not JSON ({error.msg}, column {error.colno})")
        return _Bad("not JSON", f"not JSON ({error})")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            refuse_bomb(file)
            for batch in file.iter_batches(BATCH):
                for row in _decoded(batch):
                    number += 1
                    yield number, row
    except (pa.ArrowException, ValueError) as error:
        after = f" after row {number}" if number else ""
        raise InputError(f"{path}: not a whole parquet file{after} ({error}); get or make it again") from error


def _decoded(batch: Any) -> Iterator[Any]:
    """The rows of a record batch, one by one where some text of it is no UTF-8, or some row is too long."""
    if longest_row(batch) > LONGEST_ROW:
        if batch.num_rows == 1:
            yield _TOO_LONG
        else:
            yield from _one_by_one(batch)
        return
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            yield _Bad("not UTF-8", f"not UTF-8 (byte {error.start + 1} of a text)")
        else:
            yield from _one_by_one(batch)


def _one_by_one(batch: Any) -> Iterator[Any]:
    for place in range(batch.num_rows):
        yield from _decoded(batch.slice(place, 1))


def _problems(row: Any, line: int, first: dict[str, int]) -> Iterator[tuple[str, str]]:
    """(kind, problem) of a row; `first` maps the ids seen so far to their lines."""
    match row:
        case _Bad():
            yield row.kind, row.text
            return
        case Example():
            name: Any = row.id
            yield from _unfit(row)
        case dict():
            name = row.get("id")
            try:
                yield from _unfit(from_row(row, "row"))
            except InputError as error:
                text = str(error).removeprefix("row: ")
                yield _kind(text), text
        case _:
            yield "not an object", f"a JSON object is expected, not {json_type(row)}"
            return
    if isinstance(name, str) and (earlier := first.setdefault(name, line)) != line:
        yield "the `id` of an earlier row", f"`id` {name!r} is that of line {earlier} too"


def _kind(problem: str) -> str:
    """A problem without the values it quotes and without what to do."""
    return re.sub(r"(['\"]).*\1", "…", problem, flags=re.DOTALL).partition(";")[0]


def _unfit(example: Example) -> Iterator[tuple[str, str]]:
    """What keeps an example from being written or trained on."""
    for name in ("reasoning", "answer"):
        text = getattr(example, name)
        if text is None:
            continue
        if not text.strip():
            yield f"`{name}` is blank", f"`{name}` is blank; leave it out, or drop the row"
        for tag in (reasoning.OPEN, reasoning.CLOSE):
            if tag in text:
                yield f"`{name}` holds {tag}", f"`{name}` holds {tag}, which the training text puts around reasoning"
    if example.reasoning is not None and example.answer is None:
        yield "`reasoning` without `answer`", "`reasoning` without `answer`: a trace needs both"
