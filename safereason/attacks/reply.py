"""The parser of an attacker's reply: one JSON object with a prompt in it, even if the model has garbled it.

It tolerates code fences and text around the object, a wrapper around it, other quotes, quotes and line breaks that are
not escaped, missing or extra commas, lists of texts, and an end that is cut off.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

ReplyValue = str | list["ReplyValue"] | dict[str, "ReplyValue"] | None
"""A value in a reply; None for a number, a truth value or anything else that no prompt is made of."""


@dataclass(frozen=True)
class AttackerReply:
    """The attempt in a reply of the attacker: a prompt, and what is kept of the reply."""

    prompt: str
    """The prompt for the target model."""
    improvement: str = ""
    """The attacker's own explanation of its change."""


def read_reply(text: str) -> AttackerReply | None:
    """The first object of a text that has a `prompt`; None if there is no such object or its prompt is blank.

    A list of texts counts as lines of one text.
    """
    for start in islice(_START.finditer(text), _MOST_BEGINNINGS):
        fields = _Reader(text, start.end()).read_object()
        prompt = _join_lines(fields.get("prompt"))
        if prompt:
            return AttackerReply(prompt, _join_lines(fields.get("improvement")))
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
"""Maximum number of starts that are tried: each may be read to the text's end, and no attacker needs so many."""
_DEEPEST = 8
"""Maximum nesting of objects and lists; a deeper one is not read."""


class _Reader:
    """A lenient reader that starts at a position of a text and keeps whatever it can parse."""

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position
        self.depth = 0

    def read_object(self) -> dict[str, ReplyValue]:
        """The fields of an object, from behind its opening brace; keys are in lower case."""
        fields: dict[str, ReplyValue] = {}
        while self._has_more("}"):
            key = _KEY.match(self.text, self.position)
            if key is None:
                break
            self.position = key.end()
            # Models quote keys in many ways, or not at all.
            name = key.group().rstrip(": \t\r\n").strip("\"'“”").strip().lower()
            fields[name] = self._read_value(_AFTER_VALUE)
        return fields

    def _read_items(self) -> Iterator[ReplyValue]:
        """The items of a list, from behind its opening bracket."""
        while self._has_more("]"):
            before = self.position
            yield self._read_value(_AFTER_ITEM)
            # Garbage such as a lone brace takes no character, and the loop would never end.
            if self.position == before:
                return

    def _has_more(self, end: str) -> bool:
        """Skips blanks and commas. Whether something is left before `end`, which is skipped, too."""
        blank = _BLANK.match(self.text, self.position)
        if blank:
            self.position = blank.end()
        if self.text.startswith(end, self.position):
            self.position += len(end)
            return False
        return self.position < len(self.text)

    def _read_value(self, after: re.Pattern[str]) -> ReplyValue:
        """A text, a list or an object; None for any other value.

        Args:
            after: Pattern of the text that may follow a closing quote.
        """
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1
        opening = self.text[self.position : self.position + 1]
        if opening in _CLOSING:
            self.position += 1
            return self._read_string(_CLOSING[opening], after)
        if opening in ("[", "{") and self.depth < _DEEPEST:
            self.position += 1
            return self._read_nested(opening)
        # A number, `true` or `null` is skipped up to the next separator.
        bare = _BARE.match(self.text, self.position)
        if bare:
            self.position = bare.end()
        return None

    def _read_nested(self, opening: str) -> ReplyValue:
        """A list or an object inside another value, from behind its opening bracket."""
        self.depth += 1
        inner: ReplyValue = list(self._read_items()) if opening == "[" else self.read_object()
        self.depth -= 1
        return inner

    def _read_string(self, closing: re.Pattern[str], after: re.Pattern[str]) -> str:
        """A text from behind its opening quote; without a closing one, the rest of the reply."""
        start = self.position
        for match in closing.finditer(self.text, start):
            # Escapes match as well, so that the quote of `\\"` is not taken for a closing one.
            is_escape = match.group().startswith("\\")
            if not is_escape and after.match(self.text, match.end()):
                self.position = match.end()
                return _unescape(self.text[start : match.start()])
        self.position = len(self.text)
        return _unescape(self.text[start:])


def _unescape(text: str) -> str:
    """Text with its escapes resolved; an unknown escape stays as it is, and half of one at the end is dropped."""

    def resolve(match: re.Match[str]) -> str:
        code, character = match.groups()
        if code:
            return chr(int(code, 16))
        if not character:
            return ""
        return _ESCAPED.get(character, match.group())

    # Pairs of surrogates come together; a half that is left is legal in no file and in no request.
    return _ESCAPE.sub(resolve, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _join_lines(value: ReplyValue) -> str:
    """A text, or the texts of a list as lines; empty for any other value."""
    lines = value if isinstance(value, list) else [value]
    return "\n".join(line for line in lines if isinstance(line, str)).strip()
