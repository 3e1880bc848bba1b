"""Row-by-row check of a file of examples: the problems of each bad row, and its line.

Only the ids of the rows are kept, so the file may be larger than memory.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from safereason.data.example import Example, from_row, longest_row, refuse_bomb
from safereason.errors import InputError
from safereason.files import LONGEST_ROW, from_json, json_type
from safereason.text import reasoning

if TYPE_CHECKING:
    from pyarrow import RecordBatch

SHOWN_CHARS = 300
"""Characters of a problem that are shown; it may quote a value of any length."""
# Small, since each batch is decoded as a whole and rows may be long.
BATCH = 64
"""Rows of a parquet file that are decoded at a time."""


@dataclass(frozen=True)
class Problem:
    """One problem of one row, by its place in the file."""

    line: int
    """Line in a JSONL file; in other files the number of the row, from 1."""
    kind: str
    """The problem without the row's own values, for counting."""
    text: str
    """The problem with the row's own values."""


@dataclass
class VerifyCounts:
    """Counts of a check, updated while it runs."""

    rows: int = 0
    """Rows that were checked."""
    bad: int = 0
    """Rows with a problem."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Problems by kind."""


@dataclass(frozen=True)
class _UnreadableRow:
    """The problem of a row that could not be decoded, in its place."""

    kind: str
    text: str


_TOO_LONG = _UnreadableRow("too long", f"the row is longer than {LONGEST_ROW >> 20} MiB")


def check_rows(path: Path, tally: VerifyCounts) -> Iterator[Problem]:
    """Problems of a file of your own or of its description, in the order of the rows; `tally` is updated.

    Raises:
        InputError: The file cannot be read.
    """
    first_lines: dict[str, int] = {}
    for line, row in _rows_by_line(path):
        # A row may have the same problem twice, such as a tag in both of its texts; it is named once.
        kinds_by_text = {text: kind for kind, text in _row_problems(row, line, first_lines)}
        tally.rows += 1
        tally.bad += bool(kinds_by_text)
        tally.kinds.update(kinds_by_text.values())
        for text, kind in kinds_by_text.items():
            yield Problem(line, kind, _shorten(text))


def _shorten(text: str) -> str:
    if len(text) <= SHOWN_CHARS:
        return text
    return f"{text[:SHOWN_CHARS]}…"


def _rows_by_line(path: Path) -> Iterator[tuple[int, object]]:
    """The line of each row with the row: its columns, an `Example` or an `_UnreadableRow`."""
    readers = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    try:
        yield from readers.get(path.suffix, _source_rows)(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def _source_rows(path: Path) -> Iterator[tuple[int, object]]:
    """Rows of a table, of a JSON list, of a packed file, or of the file that a YAML file describes."""
    # This imports every source, which a check of JSONL or parquet does not need.
    from safereason.data.sources import files

    if not path.name.endswith(files.SOURCE_ENDINGS):
        raise InputError(f"{path}: examples are read from {', '.join(files.SOURCE_ENDINGS)} files")
    for number, build in files.example_builders(str(path)):
        try:
            yield number, build()
        except InputError as error:
            # The message begins with the file and the row, which the caller shows by itself.
            text = re.sub(rf"^.*?: row {number}: ", "", str(error), flags=re.DOTALL)
            yield number, _UnreadableRow(_problem_kind(text), text)


def _jsonl_rows(path: Path) -> Iterator[tuple[int, object]]:
    with path.open("rb") as file:
        for number in count(1):
            line = file.readline(LONGEST_ROW + 1)
            if not line:
                return
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) > LONGEST_ROW:
                # The rest of the line is skipped in pieces, so that the check goes on with the next row.
                while line and not line.endswith(b"\n"):
                    line = file.readline(LONGEST_ROW)
                yield number, _TOO_LONG
            elif line.strip():
                yield number, _parse_line(line)


def _parse_line(line: bytes) -> object:
    try:
        return from_json(line.decode())
    except ValueError as error:
        # Only the last line can lack its newline: a writer was stopped in the middle of it.
        if not line.endswith(b"\n"):
            return _UnreadableRow("torn", "torn: the file ends inside this row")
        match error:
            case UnicodeDecodeError():
                return _UnreadableRow("not UTF-8", f"not UTF-8 (byte {error.start + 1} of the line)")
            case json.JSONDecodeError():
                return _UnreadableRow("not JSON", f"not JSON ({error.msg}, column {error.colno})")
        return _UnreadableRow("not JSON", f"not JSON ({error})")


def _parquet_rows(path: Path) -> Iterator[tuple[int, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Read in pieces, as in `example.parquet_rows`.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            refuse_bomb(file)
            for batch in file.iter_batches(BATCH):
                for row in _decode_batch(batch):
                    number += 1
                    yield number, row
    except (pa.ArrowException, ValueError) as error:
        after = ""
        if number:
            after = f" after row {number}"
        raise InputError(f"{path}: not a whole parquet file{after} ({error}); get or make it again") from error


def _decode_batch(batch: "RecordBatch") -> Iterator[object]:
    """Rows of a record batch. Where one is too long or not UTF-8, they are decoded singly to find which."""
    if longest_row(batch) > LONGEST_ROW:
        if batch.num_rows == 1:
            yield _TOO_LONG
        else:
            yield from _decode_singly(batch)
        return
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            yield _UnreadableRow("not UTF-8", f"not UTF-8 (byte {error.start + 1} of a text)")
        else:
            yield from _decode_singly(batch)


def _decode_singly(batch: "RecordBatch") -> Iterator[object]:
    for row in range(batch.num_rows):
        yield from _decode_batch(batch.slice(row, 1))


def _row_problems(row: object, line: int, first_lines: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Pairs of kind and text for each problem of a row; `first_lines` has the line of each earlier id."""
    match row:
        case _UnreadableRow():
            yield row.kind, row.text
            return
        case Example():
            row_id: object = row.id
            yield from _example_problems(row)
        case dict():
            row_id = row.get("id")
            try:
                yield from _example_problems(from_row(row, "row"))
            except InputError as error:
                text = str(error).removeprefix("row: ")
                yield _problem_kind(text), text
        case _:
            yield "not an object", f"a JSON object is expected, not {json_type(row)}"
            return
    # A row that is no example may still have an id, and a second problem with it.
    if isinstance(row_id, str):
        earlier = first_lines.setdefault(row_id, line)
        if earlier != line:
            yield "the `id` of an earlier row", f"`id` {row_id!r} is that of line {earlier} too"


def _problem_kind(problem: str) -> str:
    """A problem without the values it quotes and without its advice."""
    return re.sub(r"(['\"]).*\1", "…", problem, flags=re.DOTALL).partition(";")[0]


def _example_problems(example: Example) -> Iterator[tuple[str, str]]:
    """Pairs of kind and text for each reason why a valid example cannot be trained on."""
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
