"""Rows in: questions as JSONL or CSV, one at a time, from a file or a pipe of any length."""

import csv
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from safereason import files
from safereason.errors import InputError
from safereason.files import json_type
from safereason.guard.conversation import turns_of
from safereason.guard.prompt import Question, question_of

Format = Literal["jsonl", "csv"]
Id = str | int | float
Record = Mapping[str, Any]

STDIN = "-"
FIELDS = ("prompt", "response", "messages", "id")
"""What is read of a row, each from the column of its name unless `--field` names another."""
LONGEST = 10_000_000
"""Most bytes of a row, so that no input fills the memory."""

_HALVES = re.compile("[\ud800-\udfff]")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Row:
    """One row of the input."""

    number: int
    """From 1; blank lines and a CSV's header are not counted."""
    question: Question
    id: Id | None = None
    """Its own name, where it has one."""


def fields_of(texts: Sequence[str]) -> dict[str, str]:
    """Columns by field, from `FIELD=COLUMN` texts.

    Raises:
        InputError: A text has another form, no such field is read, or the fields exclude each other.
    """
    fields = {}
    for text in texts:
        field, _, column = text.partition("=")
        if field not in FIELDS or not column:
            raise InputError(f"--field {text}: FIELD=COLUMN is expected, with FIELD one of {', '.join(FIELDS)}")
        fields[field] = column
    if "messages" in fields and ("prompt" in fields or "response" in fields):
        raise InputError("--field: messages excludes prompt and response; name the one or the others")
    return fields


@contextmanager
def opened(source: str, form: Format | None, fields: Mapping[str, str]) -> Iterator[Iterator[Row]]:
    """The rows of a file, or of stdin where `source` is `-`.

    Args:
        source: A path or `-`.
        form: By default CSV where the path ends in `.csv`, or in `.csv.gz` or `.csv.xz`, else JSONL.
        fields: As `fields_of` makes them.

    Raises:
        InputError: The file cannot be opened.
    """
    chosen = form or ("csv" if files.form_suffix(Path(source.lower())) == ".csv" else "jsonl")
    if source == STDIN:
        if sys.stdin is None:
            raise InputError("stdin is closed; name a file, or pipe rows in")
        yield read(sys.stdin.buffer, "stdin", chosen, fields)
        return
    with _open(source) as file:
        yield read(file, source, chosen, fields)


def _open(path: str) -> BinaryIO:
    try:
        return files.opened(Path(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); check the path") from error


def read(stream: BinaryIO, name: str, form: Format, fields: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a stream, read as they are asked for.

    Args:
        stream: Bytes, in UTF-8 with or without a byte order mark.
        name: What messages call it.
        form: Of the rows.
        fields: As `fields_of` makes them.

    Raises:
        InputError: A row is no question; the message says which line.
    """
    records = _FORMS[form](_Lines(stream, name))
    for number, (where, record) in enumerate(records, start=1):
        yield row_of(number, record, fields, where)


def row_of(number: int, record: Record, fields: Mapping[str, str], where: str) -> Row:
    """One row from its cells by column.

    Raises:
        InputError: It is no question; the message begins with `where`.
    """
    return Row(number, _question(record, fields, where), _id(record, fields, where))


def count_lines(path: Path) -> int:
    """Lines of a file, a last one without its newline too."""
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")


class _Lines:
    """The lines of a stream as text; those of one row may hold `LONGEST` bytes together."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        self.number = 0
        self._stream = stream
        self._room = LONGEST

    def begin_row(self) -> str:
        """Gives the room of a row; says where it begins, as `name:line`."""
        self._room = LONGEST
        return f"{self.name}:{self.number + 1}"

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            raw = self._stream.readline(self._room + 1)
        except files.BROKEN as error:
            raise InputError(
                f"{self.name}:{self.number + 1}: cannot be read ({error}); get or make the file again"
            ) from error
        if not raw:
            raise StopIteration
        self.number += 1
        self._room -= len(raw)
        if self._room < 0:
            raise InputError(
                f"{self.name}:{self.number}: this row holds more than {LONGEST // 10**6} MB; shorten or mend it"
            )
        try:
            return raw.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.name}:{self.number}: not UTF-8 ({error.reason}); save it as UTF-8") from error


def _json_records(lines: _Lines) -> Iterator[tuple[str, Record]]:
    while True:
        where = lines.begin_row()
        line = next(lines, None)
        if line is None:
            return
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({error}); each line is one JSON object") from error
        if not isinstance(record, dict):
            raise InputError(f"{where}: a JSON object is expected on each line, not {json_type(record)}")
        yield where, record


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _csv_records(lines: _Lines) -> Iterator[tuple[str, Record]]:
    """Rows by the names in the first one; an empty cell is one that is not filled in."""
    csv.field_size_limit(LONGEST)
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    while True:
        where = lines.begin_row()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{where}: not CSV ({error}); mend its quotes") from error
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = _header(cells, where)
        elif len(cells) != len(header):
            raise InputError(f"{where}: {len(cells)} cells where the header names {len(header)}; mend its quotes")
        else:
            yield where, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _header(cells: list[str], where: str) -> list[str]:
    twice = next((name for name in cells if name and cells.count(name) > 1), None)
    if twice:
        raise InputError(f"{where}: two columns are called `{twice}`; rename one")
    return cells


_FORMS: dict[Format, Callable[[_Lines], Iterator[tuple[str, Record]]]] = {"jsonl": _json_records, "csv": _csv_records}


def _question(record: Record, fields: Mapping[str, str], where: str) -> Question:
    """A conversation where `messages` is named, or where it is there and `prompt` is not; else a prompt."""
    if "messages" in fields or ("prompt" not in fields and "prompt" not in record and "messages" in record):
        question = _conversation(record, fields.get("messages", "messages"), where)
    else:
        prompt = _text(record, fields.get("prompt", "prompt"), where, or_null=False)
        is_asked = "response" in fields or "response" in record
        response = _text(record, fields.get("response", "response"), where, or_null=True) if is_asked else None
        question = Question(prompt or "", response)
    if not question.prompt.strip():
        raise InputError(f"{where}: its prompt is empty; fill it in or delete the row")
    return question


def _conversation(record: Record, column: str, where: str) -> Question:
    messages = _cell(record, column, where)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError(f"{where}: `{column}` is to be a list of messages with `role` and `content`")
    place = f"{where}: `{column}`"
    question = question_of(turns_of(messages, place), place)
    response = None if question.response is None else whole(question.response)
    return replace(question, prompt=whole(question.prompt), response=response)


def _text(record: Record, column: str, where: str, *, or_null: bool) -> str | None:
    value = _cell(record, column, where)
    if value is None and or_null:
        return None
    if not isinstance(value, str):
        raise InputError(f"{where}: `{column}` is to be text, not {json_type(value)}")
    return whole(value)


def _id(record: Record, fields: Mapping[str, str], where: str) -> Id | None:
    value = _cell(record, fields["id"], where) if "id" in fields else record.get("id")
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise InputError(f"{where}: its id is to be text or a number, not {json_type(value)}")


def _cell(record: Record, column: str, where: str) -> Any:
    if column not in record:
        there = ", ".join(record)[:200] or "nothing"
        raise InputError(f"{where}: has no `{column}`, but {there}; --field FIELD=COLUMN names the columns")
    return record[column]


def whole(text: str) -> str:
    """Text that can be encoded: half a surrogate pair, which JSON may hold, becomes the replacement character."""
    return _HALVES.sub("\N{REPLACEMENT CHARACTER}", text)
