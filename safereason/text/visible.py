"""Visible text: what models and files hold, with each character spelled out that acts on the screen or cannot be seen.

Such characters move a terminal's cursor, hide or reorder the text around them (U+202E overrides the direction), or
cannot be encoded.
"""

import unicodedata
from collections.abc import Callable

_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode's categories of control, format and surrogate characters, and of line and paragraph separators."""
# Line breaks and tabs are control characters by category, and harmless.
_WHITE_SPACE = "\n\t"
_JOINERS = "\u200c\u200d"
"""Zero-width (non-)joiners: emoji and several scripts need them, and a browser draws them right."""


def visible(text: str) -> str:
    """The text for a terminal, with hidden characters as Python's escapes."""
    return _spelled_out(text, _WHITE_SPACE, _escape)


def visible_on_page(text: str) -> str:
    """The text for a web page, with hidden characters as their code points, such as ⟨U+202E⟩; joiners stay."""
    return _spelled_out(text, _WHITE_SPACE + _JOINERS, _code_point)


def _spelled_out(text: str, shown: str, spell: Callable[[str], str]) -> str:
    """The text with `spell` of each hidden character but those in `shown`."""
    characters: list[str] = []
    for character in text:
        if character in shown or unicodedata.category(character) not in _HIDDEN:
            characters.append(character)
        else:
            characters.append(spell(character))
    return "".join(characters)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"


def _code_point(character: str) -> str:
    return f"⟨U+{ord(character):04X}⟩"
