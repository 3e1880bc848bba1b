"""Text from models and files, made safe to look at."""

import unicodedata
from typing import Any

from markupsafe import Markup

JOINERS = "\u200c\u200d"
"""Zero-width (non-)joiners: emoji and several scripts need them."""


def visible(value: Any) -> Any:
    """A string with its control, format and lone surrogate characters spelled out, such as ⟨U+202E⟩.

    They could reorder (U+202E overrides the direction) or hide what stands beside them, or could not be written at
    all. Markup and what is no string are returned as they are.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if _is_plain(c) else f"⟨U+{ord(c):04X}⟩" for c in value)


def _is_plain(character: str) -> bool:
    if character in "\n\t" or character in JOINERS:
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
