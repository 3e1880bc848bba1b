"""Input rows of `guard classify`: JSONL or CSV, read one at a time from a file or a pipe of any length."""

import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from safereason import files
from safereason.errors import InputError
from safereason.files import LONE_SURROGATE, json_type
from safereason.guard.conversation import turns_of
from safereason.guard.prompt import Question, question_of

RowFormat = Literal["jsonl", "csv"]
Id = str | int | float
Cells = Mapping[str, object]
"""One row of the input: cells by column."""

STDIN = "-"
FIELDS = ("prompt", "response", "messages", "id")
"""Fields of a row. Each is read from the column of its name, unless `--field` names another column."""
LONGEST = 10_000_000
"""Most bytes of one row, so that no input fills the memory."""

# Lines are counted in blocks of this size, so that a file of any length takes little memory.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class InputRow:
    """One row of the input: the question that it holds, its number and its id."""

    number: int
    """Number of the row from 1; blank lines and a CSV's header do not count."""
    question: Question
    id: Id | None = None
    """The row's own id, if it has one."""


def fields_of(texts: Sequence[str]) -> dict[str, str]:
    """Columns by field, from the `FIELD=COLUMN` texts of the command line.

    Raises:
        InputError: A text has another form, there is no such field, or two fields exclude each other.
    """
    fields: dict[str, str] = {}
    for text in texts:
        field, _, column = text.partition("=")
        if field not in FIELDS or not column:
            raise InputError(f"--field {text}: FIELD=COLUMN is expected, with FIELD one of {', '.join(FIELDS)}")
        fields[field] = column
    if "messages" in fields and ("prompt" in fields or "response" in fields):
        raise InputError("--field: messages excludes prompt and response; name the one or the others")
    return fields


@contextmanager
def opened(source: str, form: RowFormat | None, fields: Mapping[str, str]) -> Iterator[Iterator[InputRow]]:
    """The rows of a file, or of stdin if `source` is `-`.

    Args:
        source: A path or `-`.
        form: Format of the rows; by default CSV for a path that ends in `.csv`, `.csv.gz` or `.csv.xz`, else JSONL.
        fields: Columns by field, as `fields_of` makes them.

    Raises:
        InputError: The file cannot be opened.
    """
    if form is None:
        # By the name alone: a pipe has no second look at its first bytes.
        is_csv = files.form_suffix(Path(source.lower())) == ".csv"
        form = "csv" if is_csv else "jsonl"
    if source == STDIN:
        if sys.stdin is None:
            raise InputError("stdin is closed; name a file, or pipe rows in")
        yield read_input_rows(sys.stdin.buffer, "stdin", form, fields)
        return
    # Packed files are unpacked on the way, row by row.
    with _open_input(source) as file:
        yield read_input_rows(file, source, form, fields)


def _open_input(path: str) -> BinaryIO:
    try:
        return files.opened(Path(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); check the path") from error


def read_input_rows(stream: BinaryIO, name: str, form: RowFormat, fields: Mapping[str, str]) -> Iterator[InputRow]:
    """The rows of a stream, each read only when it is requested.

    Args:
        stream: Bytes in UTF-8, with or without a byte order mark.
        name: Name of the stream in error messages.
        form: Format of the rows.
        fields: Columns by field, as `fields_of` makes them.

    Raises:
        InputError: A row holds no question; the message names the line.
    """
    lines = _Lines(stream, name)
    located_cells = _csv_cells(lines) if form == "csv" else _json_cells(lines)
    for number, (where, cells) in enumerate(located_cells, start=1):
        yield row_of(number, cells, fields, where)


def row_of(number: int, cells: Cells, fields: Mapping[str, str], where: str) -> InputRow:
    """The row that these cells hold.

    Args:
        number: Number of the row, from 1.
        cells: Cells by column.
        fields: Columns by field, as `fields_of` makes them.
        where: Prefix of error messages.

    Raises:
        InputError: The cells hold no question, or an id that is neither text nor number.
    """
    return InputRow(number, _question_of_row(cells, fields, where), _id_of_row(cells, fields, where))


def count_lines(path: Path) -> int:
    """The number of lines of a file; a last line without a newline counts too."""
    count = 0
    last = b"\n"
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            count += block.count(b"\n")
            last = block[-1:]
    if last != b"\n":
        count += 1
    return count


class _Lines:
    """The lines of a stream as text; the lines of one row hold at most `LONGEST` bytes together."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        self.number = 0
        self._stream = stream
        self._room = LONGEST

    def begin_row(self) -> str:
        """Starts to count the bytes of the next row, and returns its place as `name:line`."""
        self._room = LONGEST
        return f"{self.name}:{self.number + 1}"

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            # One byte more than there is room for, so that a row that is too long shows without being read whole.
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
        # Only the first line can begin with a byte order mark.
        encoding = "utf-8-sig" if self.number == 1 else "utf-8"
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise InputError(f"{self.name}:{self.number}: not UTF-8 ({error.reason}); save it as UTF-8") from error


def _json_cells(lines: _Lines) -> Iterator[tuple[str, Cells]]:
    """Each row of JSONL with its place."""
    while True:
        where = lines.begin_row()
        line = next(lines, None)
        if line is None:
            return
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({error}); each line is one JSON object") from error
        if not isinstance(record, dict):
            raise InputError(f"{where}: a JSON object is expected on each line, not {json_type(record)}")
        yield where, record


def _refuse_constant(name: str) -> None:
    """Refuses NaN and the infinities, which Python's reader accepts and JSON does not have."""
    raise ValueError(f"{name} is no JSON number")


def _csv_cells(lines: _Lines) -> Iterator[tuple[str, Cells]]:
    """Each row of CSV with its place, by the names in the header; an empty cell is None."""
    # Python's own limit of 128 KiB per cell is too low for long conversations. `_Lines` bounds the whole row.
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
            header = cells
            _check_header(header, where)
        # A quote that is missing joins two rows, so the number of cells is the first thing to go wrong.
        elif len(cells) != len(header):
            raise InputError(f"{where}: {len(cells)} cells where the header names {len(header)}; mend its quotes")
        else:
            yield where, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _check_header(header: list[str], where: str) -> None:
    for name in header:
        # Spreadsheets leave columns without a name; they cannot be read, so there may be several.
        if name and header.count(name) > 1:
            raise InputError(f"{where}: two columns are called `{name}`; rename one")


def _question_of_row(cells: Cells, fields: Mapping[str, str], where: str) -> Question:
    """The question of a row, from its conversation or from its prompt and response.

    `--field` decides between the two. Without it, a row with `messages` and no `prompt` is a conversation.
    """
    if "messages" in fields or ("prompt" not in fields and "prompt" not in cells and "messages" in cells):
        question = _question_of_messages(cells, fields.get("messages", "messages"), where)
    else:
        prompt = _text_cell(cells, fields.get("prompt", "prompt"), where)
        response = None
        # A column that was named must be there. One that was not named may be missing.
        if "response" in fields or "response" in cells:
            response = _optional_text_cell(cells, fields.get("response", "response"), where)
        question = Question(prompt, response)
    if not question.prompt.strip():
        raise InputError(f"{where}: its prompt is empty; fill it in or delete the row")
    return question


def _question_of_messages(cells: Cells, column: str, where: str) -> Question:
    messages = _cell_of(cells, column, where)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError(f"{where}: `{column}` is to be a list of messages with `role` and `content`")
    place = f"{where}: `{column}`"
    question = question_of(turns_of(messages, place), place)
    response = question.response
    if response is not None:
        response = replace_surrogates(response)
    return replace(question, prompt=replace_surrogates(question.prompt), response=response)


def _text_cell(cells: Cells, column: str, where: str) -> str:
    value = _cell_of(cells, column, where)
    if not isinstance(value, str):
        raise InputError(f"{where}: `{column}` is to be text, not {json_type(value)}")
    return replace_surrogates(value)


def _optional_text_cell(cells: Cells, column: str, where: str) -> str | None:
    if _cell_of(cells, column, where) is None:
        return None
    return _text_cell(cells, column, where)


def _id_of_row(cells: Cells, fields: Mapping[str, str], where: str) -> Id | None:
    value = cells.get("id")
    if "id" in fields:
        # A column that was named must be there, as for the response.
        value = _cell_of(cells, fields["id"], where)
    # NaN and the infinities cannot be written to JSON again.
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise InputError(f"{where}: its id is to be text or a number, not {json_type(value)}")


def _cell_of(cells: Cells, column: str, where: str) -> object:
    if column not in cells:
        known = ", ".join(cells)[:200] or "nothing"
        raise InputError(f"{where}: has no `{column}`, but {known}; --field FIELD=COLUMN names the columns")
    return cells[column]


def replace_surrogates(text: str) -> str:
    """The text with lone surrogates replaced: JSON can hold half a surrogate pair, and UTF-8 cannot encode it."""
    return LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
