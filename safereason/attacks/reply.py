"""What an attacker wrote: one JSON object with a prompt in it, however its model has garbled it.

Read as well as it can be: code fences and text around the object, a wrapper around it, other quotes, quotes and line
breaks that are not escaped, commas too many or too few, lists of texts, and an end that is cut off.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What an attacker wants to try next."""

    prompt: str
    """For the target."""
    improvement: str = ""
    """What it changes and why, in its own words."""


def read(text: str) -> Reply | None:
    """The first object of a text that has a `prompt`; None where there is none, or it is blank.

    A list of texts counts as lines of one text.
    """
    for start in islice(_START.finditer(text), _MOST_BEGINNINGS):
        found = _Reader(text, start.end()).object()
        prompt = _text(found.get("prompt"))
        if prompt:
            return Reply(prompt, _text(found.get("improvement")))
    return None


# An object begins with a brace, or was never opened and begins with a key.
_START = re.compile(r"""\{|(?=["'“](?:improvement|prompt)["'”]\s*:)""", re.IGNORECASE)
_QUOTED_KEY = r"""(?:"[^"\n]{1,40}"|'[^'\n]{1,40}'|“[^”\n]{1,40}”)\s*:"""
_KEY = re.compile(rf"{_QUOTED_KEY}|\w{{1,40}}\s*:")
_BLANK = re.compile(r"[\s,]*")
_BARE = re.compile(r"[^,}\]\n]*")
# A quote ends a text only where what follows could follow it: one inside the text need not be escaped.
_AFTER_VALUE = re.compile(rf"\s*(?:\Z|}}|```|{_QUOTED_KEY}|,\s*(?:}}|\Z|{_KEY.pattern}))")
_AFTER_ITEM = re.compile(r"""\s*(?:\Z|\]|,\s*(?:\]|\Z|["'“]))""")
_CLOSING = {
    '"': re.compile(r'\\.|"', re.DOTALL),
    "'": re.compile(r"\\.|'", re.DOTALL),
    "“": re.compile(r"\\.|[“”]", re.DOTALL),
}
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\(?:u[0-9a-fA-F]{0,3})?\Z|\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", **{c: c for c in "/\\\"'“”\n"}}
_MOST_BEGINNINGS = 64
"""Places at which an object is looked for: each may be read to the text's end, and no attacker needs so many."""
_DEEPEST = 8
"""Objects and lists inside each other; what is deeper is not read."""


class _Reader:
    """Reads on from a place in a text, and takes what it gets."""

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at
        self.depth = 0

    def object(self) -> dict[str, Any]:
        """From behind the brace; keys are in lower case."""
        found: dict[str, Any] = {}
        while self._goes_on("}") and (key := _KEY.match(self.text, self.at)):
            self.at = key.end()
            name = key.group().rstrip(": \t\r\n").strip("\"'“”").strip().lower()
            found[name] = self._value(_AFTER_VALUE)
        return found

    def _list(self) -> Iterator[Any]:
        while self._goes_on("]"):
            before = self.at
            yield self._value(_AFTER_ITEM)
            if self.at == before:
                return

    def _goes_on(self, end: str) -> bool:
        """Whether something is left before `end`, which is stepped over."""
        blank = _BLANK.match(self.text, self.at)
        self.at = blank.end() if blank else self.at
        over = self.text.startswith(end, self.at)
        self.at += over
        return not over and self.at < len(self.text)

    def _value(self, after: re.Pattern[str]) -> Any:
        """A text, a list or an object; None for anything else."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        opening = self.text[self.at : self.at + 1]
        if opening in _CLOSING:
            self.at += 1
            return self._string(_CLOSING[opening], after)
        if opening in ("[", "{") and self.depth < _DEEPEST:
            self.at += 1
            self.depth += 1
            inner = list(self._list()) if opening == "[" else self.object()
            self.depth -= 1
            return inner
        bare = _BARE.match(self.text, self.at)
        self.at = bare.end() if bare else self.at
        return None

    def _string(self, closing: re.Pattern[str], after: re.Pattern[str]) -> str:
        start = self.at
        for found in closing.finditer(self.text, start):
            if not found.group().startswith("\\") and after.match(self.text, found.end()):
                self.at = found.end()
                return _unescaped(self.text[start : found.start()])
        self.at = len(self.text)
        return _unescaped(self.text[start:])


def _unescaped(text: str) -> str:
    """Text with its escapes resolved; what is no escape stays, and half of one at the end goes."""

    def resolved(found: re.Match[str]) -> str:
        code, character = found.groups()
        if code:
            return chr(int(code, 16))
        return _ESCAPED.get(character, found.group()) if character else ""

    # Pairs of surrogates come together; a half that is left is legal in no file and in no request.
    return _ESCAPE.sub(resolved, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(value: Any) -> str:
    lines = value if isinstance(value, list) else [value]
    return "\n".join(line for line in lines if isinstance(line, str)).strip()
