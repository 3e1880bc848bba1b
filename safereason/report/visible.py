"""Text from models and files, made safe to look at."""

import unicodedata
from typing import TypeVar

from markupsafe import Markup

JOINERS = "\u200c\u200d"
"""Zero-width (non-)joiners: emoji and several scripts need them."""
Value = TypeVar("Value")


def visible(value: Value) -> Value | str:
    """A string with its control, format and lone surrogate characters spelled out, such as ⟨U+202E⟩.

    Such characters can hide or reorder the text around them (U+202E overrides the direction), or cannot be encoded.
    Markup and values that are no strings are returned as they are.
    """
    # Markup is our own HTML. It is a `str` too, and spelling out its characters would break the page.
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    shown = []
    for character in value:
        if _is_plain(character):
            shown.append(character)
        else:
            shown.append(f"⟨U+{ord(character):04X}⟩")
    return "".join(shown)


def _is_plain(character: str) -> bool:
    """Whether a character is shown as itself."""
    # Line breaks and tabs are control characters by category, and harmless: the page keeps them as white space.
    if character in "\n\t" or character in JOINERS:
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
