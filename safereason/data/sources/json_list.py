"""A JSON file that is one list of items, decoded item by item: the list may be larger than memory."""

import re
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import Any, TextIO

from safereason.files import LONGEST_ROW, is_deep

BLOCK = 1 << 20
"""Characters that are read at a time."""
_DECODE = JSONDecoder().raw_decode
_GAP = re.compile(r"[ \t\r\n]*")


def items(file: TextIO) -> Iterator[Any]:
    """The items of the list that a file holds.

    Raises:
        ValueError: It holds no list, or one that is not whole.
    """
    text = _Text(file)
    if text.mark() != "[":
        raise ValueError("a list is expected")
    mark = text.mark()
    text.at -= mark not in ("]", "")  # it begins the first item
    while mark != "]":
        yield text.value()
        if (mark := text.mark()) not in (",", "]"):
            raise ValueError("`,` or `]` is expected")
    if text.mark():
        raise ValueError("something follows the list")


class _Text:
    """What of a file is not decoded yet."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.text = ""
        self.at = 0

    def mark(self) -> str:
        """Passes over the next character that is no white space; empty where the file ends."""
        while True:
            self.at = self._gap()
            if self.at < len(self.text):
                self.at += 1
                return self.text[self.at - 1]
            if not self._more():
                return ""

    def value(self) -> Any:
        """Decodes the next value."""
        has_grown = False
        while True:
            try:
                value, self.at = _DECODE(self.text, self._gap())
            except JSONDecodeError as error:
                if has_grown and len(self.text) - self.at > LONGEST_ROW:
                    raise ValueError(f"the item after it is broken, or longer than {LONGEST_ROW >> 20} MiB") from error
                if not self._more():
                    raise ValueError(error.msg) from error
                has_grown = True
            except RecursionError as error:
                raise ValueError("nested too deeply") from error
            else:
                if is_deep(value):
                    raise ValueError("nested too deeply")
                return value

    def _gap(self) -> int:
        found = _GAP.match(self.text, self.at)
        return found.end() if found else self.at

    def _more(self) -> bool:
        left = self.text[self.at :]
        new = self.file.read(max(BLOCK, len(left)))
        self.text, self.at = left + new, 0
        return bool(new)
