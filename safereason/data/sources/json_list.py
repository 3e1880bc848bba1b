"""A decoder for a JSON file that is one list. It decodes item by item, so the list may be larger than memory."""

import re
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import TextIO

from safereason.files import LONGEST_ROW, is_deep

BLOCK = 1 << 20
"""Characters that are read at a time."""
_DECODE = JSONDecoder().raw_decode
# The four that JSON allows; `\s` would accept more.
_WHITE_SPACE = re.compile(r"[ \t\r\n]*")


def list_items(file: TextIO) -> Iterator[object]:
    """Items of the list in a file.

    Raises:
        ValueError: The file holds no list, or an incomplete one.
    """
    stream = _JsonStream(file)
    if stream.read_mark() != "[":
        raise ValueError("a list is expected")
    mark = stream.read_mark()
    if mark not in ("]", ""):
        # It is the first character of the first item.
        stream.position -= 1
    while mark != "]":
        yield stream.read_value()
        mark = stream.read_mark()
        if mark not in (",", "]"):
            raise ValueError("`,` or `]` is expected")
    if stream.read_mark():
        raise ValueError("something follows the list")


class _JsonStream:
    """The part of a file that is read and not yet decoded."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.text = ""
        self.position = 0

    def read_mark(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            self.position = self._skip_white_space()
            if self.position < len(self.text):
                self.position += 1
                return self.text[self.position - 1]
            if not self._read_more():
                return ""

    def read_value(self) -> object:
        """The next value of the list."""
        # A value that cannot be decoded may be broken, or may go on in the next block. Only reading on tells which.
        has_grown = False
        while True:
            try:
                value, self.position = _DECODE(self.text, self._skip_white_space())
            except JSONDecodeError as error:
                if has_grown and len(self.text) - self.position > LONGEST_ROW:
                    raise ValueError(f"the item after it is broken, or longer than {LONGEST_ROW >> 20} MiB") from error
                if not self._read_more():
                    raise ValueError(error.msg) from error
                has_grown = True
            except RecursionError as error:
                raise ValueError("nested too deeply") from error
            else:
                if is_deep(value):
                    raise ValueError("nested too deeply")
                return value

    def _skip_white_space(self) -> int:
        match = _WHITE_SPACE.match(self.text, self.position)
        return match.end() if match else self.position

    def _read_more(self) -> bool:
        left = self.text[self.position :]
        # At least as much as is left, so that a long value is decoded anew O(log n) times and not once a block.
        new = self.file.read(max(BLOCK, len(left)))
        self.text = left + new
        self.position = 0
        return bool(new)
