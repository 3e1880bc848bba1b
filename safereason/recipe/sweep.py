"""Sweeps: overrides with several values for a key, and the points of the grid that they span."""

import re
from collections.abc import Sequence
from itertools import product

from safereason.errors import InputError

_OPENING, _CLOSING = "[{", "]}"


def points(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The cartesian product of `section.key=value,value,…` texts, the last key varying fastest.

    A comma inside brackets, braces or quotes is part of a value.

    Returns:
        The overrides of each point, in the order given.

    Raises:
        InputError: A value is missing, or no key has several.
    """
    values = [_values(text) for text in overrides]
    if all(len(one) < 2 for one in values):
        raise InputError("sweep: nothing varies; give a key several values, such as data.harmful_ratio=0.1,0.5,0.9")
    return list(product(*values))


def label(point: Sequence[str], overrides: Sequence[str]) -> str:
    """The overrides of the keys that vary, which tell a point from the others."""
    return " ".join(one for one, text in zip(point, overrides, strict=True) if one != text)


def folder(label: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"[^\w.=+-]+", "_", label).strip("_")


def _values(text: str) -> list[str]:
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in _split(value)]
    if len(parts) > 1 and not all(parts):
        raise InputError(f"override {text!r}: a value is missing; write values with one comma between them")
    if len(parts) == 1:
        return [text]
    # A value that is given twice would be the same run twice: its directory is the same.
    return [f"{key}{equals}{part}" for part in dict.fromkeys(parts)]


def _split(value: str) -> list[str]:
    """The parts between the commas that are outside of quotes, brackets and braces."""
    parts = [""]
    depth = 0
    quote = ""
    for character in value:
        # Inside quotes nothing counts but the closing quote: a bracket there is text.
        if quote:
            if character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts
