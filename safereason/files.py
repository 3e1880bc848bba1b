"""Files that a person gives, read within bounds: no file fills the memory, not even one that unpacks to far more.

A row, be it a line of JSONL, the lines of one row of a table, or an item of a list in JSON, holds at most `LONGEST_ROW`
bytes; the bound is kept while a packed file is unpacked. A file that is read as a whole is bounded too.
"""

import codecs
import gzip
import json
import lzma
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeAlias, cast

from safereason.errors import InputError

LONGEST_ROW = 1 << 24
"""Bytes of the longest row; in a text that is decoded already, its characters."""
LARGEST_DOCUMENT = 1 << 28
"""Bytes of the largest file that is one JSON document."""
LARGEST_TEXT = 1 << 24
"""Bytes of the largest text file that is read as a whole, such as a prompt's template."""
LARGEST_YAML = 1 << 20
"""Bytes of the largest YAML file: its reader takes a second for each megabyte."""
DEEPEST = 100
"""Levels of lists and objects in a JSON value."""
PACKED = (".gz", ".xz")
"""Endings of the names of packed files."""
BROKEN = (OSError, EOFError, ValueError, RecursionError, zlib.error, lzma.LZMAError)
"""Errors of reading a file that is missing, damaged, or not of the form that its name gives."""

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a UTF-16 pair: JSON may escape it, and Python keeps it, but no UTF-8 file can hold it."""

JSONValue: TypeAlias = object
"""A value of JSON: null, a boolean, a number, text, a list or an object. Its reader checks which."""

_BLOCK = 1 << 16
_SPACE = b" \t\r\n"


def opened(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked where its name says that it is packed.

    Raises:
        OSError: It cannot be opened.
        ValueError: Its name cannot be one.
    """
    if path.suffix.lower() == ".gz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    if path.suffix.lower() == ".xz":
        return cast("BinaryIO", lzma.open(path, "rb"))
    return path.open("rb")


def form_suffix(path: Path) -> str:
    """The ending of a file's name, such as `.csv`, without the ending of a packed file."""
    if path.suffix in PACKED:
        return Path(path.stem).suffix
    return path.suffix


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1; a byte order mark at the start is removed.

    Raises:
        ValueError: A line is longer than a row may be.
    """
    number = 0
    # One byte more than allowed: a longer line shows itself without being read whole.
    while line := file.readline(LONGEST_ROW + 1):
        number += 1
        if len(line) > LONGEST_ROW:
            raise ValueError(f"line {number} is longer than {LONGEST_ROW >> 20} MiB")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip(_SPACE):
            yield number, line


class TableLines:
    """The lines of a table; those of one row hold at most `LONGEST_ROW` characters together."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._room_left = LONGEST_ROW

    def begin_row(self) -> None:
        """Starts the next row, which may be as long as the others."""
        self._room_left = LONGEST_ROW

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._room_left + 1)
        if not line:
            raise StopIteration
        self._room_left -= len(line)
        if self._room_left < 0:
            raise ValueError(f"the row after it is longer than {LONGEST_ROW >> 20} MiB")
        return line


def from_json(text: str | bytes) -> JSONValue:
    """The value of a JSON text.

    Raises:
        ValueError: It is no JSON, is nested too deeply, or holds a whole number of thousands of digits.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    # This error is a `ValueError`, too, and has the better message.
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}") from error
    except ValueError as error:
        # `int` refuses numbers of thousands of digits, which take quadratic time.
        raise ValueError("a whole number has too many digits") from error
    # Counting brackets is far cheaper than walking through the value, and few texts have so many.
    if isinstance(text, str):
        brackets = text.count("[") + text.count("{")
    else:
        brackets = text.count(b"[") + text.count(b"{")
    if brackets > DEEPEST and is_deep(value):
        raise ValueError("nested too deeply")
    return value


def is_deep(value: object) -> bool:
    """Whether lists and objects are nested deeper than `DEEPEST`, so that walking through them may fail."""
    level = [value]
    # A level at a time: recursion is the very thing that fails for a deep value.
    for _ in range(DEEPEST + 1):
        inner: list[object] = []
        for part in level:
            inner.extend(_items_of(part))
        if not inner:
            return False
        level = inner
    return True


def _items_of(value: object) -> Iterable[object]:
    match value:
        case dict():
            return value.values()
        case list():
            return value
    return ()


def read_bytes(path: Path, largest: int) -> bytes:
    """All bytes of a small file.

    Raises:
        InputError: It cannot be read, or is larger.
    """
    content = bytearray()
    try:
        with path.open("rb") as file:
            # In blocks: one read would reserve all the bytes that the file may have. The size that the file system
            # gives is 0 for a pipe, and may change.
            while len(content) <= largest and (block := file.read(_BLOCK)):
                content += block
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if len(content) > largest:
        raise InputError(f"{path}: larger than {largest >> 20} MiB, so it is not the file meant; check the path")
    return bytes(content)


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """The contents of a text file in UTF-8, without its byte order mark.

    Raises:
        InputError: It cannot be read, is larger, or is not UTF-8.
    """
    try:
        return read_bytes(path, largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def read_json(path: Path) -> JSONValue:
    """Reads one JSON document, with or without a byte order mark.

    Raises:
        InputError: The file is missing, too large or not JSON.
    """
    content = read_bytes(path, LARGEST_DOCUMENT).removeprefix(codecs.BOM_UTF8)
    try:
        return from_json(content)
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); get or make it again") from error


# `Any`, because the reader of a file knows the types of its columns.
class JSONRow(dict[str, Any]):
    """One object of a JSONL file; a missing column is an error that names file and line."""

    __slots__ = ("where",)

    def __init__(self, columns: Mapping[str, JSONValue], where: str) -> None:
        super().__init__(columns)
        self.where = where

    def __missing__(self, column: str) -> object:
        raise InputError(f"{self.where}: has no `{column}`; mend the file, or make it again")


def json_rows(path: Path) -> Iterator[JSONRow]:
    """The rows of a person's own JSONL file, one by one. Every line counts: one that is cut off is an error.

    Raises:
        InputError: The file cannot be read, or a line of it is no JSON object; the message says which.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in lines(file):
                yield _json_row(path, number, line)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> InputError:
    """The error for a file that cannot be read, with the reason."""
    return InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); check the path")


def _json_row(path: Path, number: int, line: bytes) -> JSONRow:
    where = f"{path}:{number}"
    try:
        row = from_json(line)
    except ValueError as error:
        raise InputError(f"{where}: {_what_is_wrong(line, number, error)}") from error
    if isinstance(row, dict):
        return JSONRow(row, where)
    # A file with one list is a common mistake: JSON in place of JSONL.
    if isinstance(row, list) and number == 1:
        raise InputError(f"{where}: {_LIST}")
    raise InputError(f"{where}: a JSON object is expected on each line, not {json_type(row)}; mend the line")


def json_type(value: object) -> str:
    """JSON's name for a value's type, with its article; Python's name for a type that JSON does not have."""
    # `bool` comes before `int`, of which it is a subclass.
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case float() if math.isinf(value):
            return "a number that is too large"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "an object"
    return type(value).__name__


_LIST = "this is one list in JSON, and each line is to be an object; give the file a name that ends in .json"


def _what_is_wrong(line: bytes, number: int, error: ValueError) -> str:
    start = line.strip(_SPACE)[:2]
    if number == 1 and start[:1] == b"[":
        return _LIST
    if number == 1 and start == b"{":
        return "this is one JSON document over several lines, and each line is to be an object; write it in one line"
    # UTF-16 has such bytes in every line of English.
    if b"\0" in line:
        return "it holds a byte of 0, which no JSON in UTF-8 does; save it as UTF-8, or get the file again"
    if b"\r" in line.strip(_SPACE):
        return "its lines end in CR alone; save the file with line ends of LF"
    if not line.endswith(b"\n"):
        return f"the file ends inside this row ({error}); get or make it again, or delete the line"
    return f"not JSON ({error}); mend or delete the line"
