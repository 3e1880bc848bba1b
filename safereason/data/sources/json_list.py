"""A JSON file that is one list of items, decoded item by item: the list may be larger than memory."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

BLOCK = 1 << 20
"""Characters that are read at a time."""
_DECODE = json.JSONDecoder().raw_decode
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
        while True:
            try:
                value, self.at = _DECODE(self.text, self._gap())
            except json.JSONDecodeError as error:
                if not self._more():
                    raise ValueError(error.msg) from error
            else:
                return value

    def _gap(self) -> int:
        found = _GAP.match(self.text, self.at)
        return found.end() if found else self.at

    def _more(self) -> bool:
        left = self.text[self.at :]
        new = self.file.read(max(BLOCK, len(left)))
        self.text, self.at = left + new, 0
        return bool(new)
