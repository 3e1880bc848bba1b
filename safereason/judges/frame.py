"""A judge's prompt, and what is put into it: text that can repeat no part of the prompt's frame.

What a model wrote stays what it wrote except where it could pass for something else:

- A line that begins as a line of the frame does is put behind `> `, as a quotation.
- A marker of the frame, such as `</answer>` or `[BEHAVIOR]`, and a special token of the judge's tokenizer or of another
  family's is made inert: see `text/inert.py`.
- Places in it are not filled.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from safereason.text.chat import Message
from safereason.text.inert import inert, quoted
from safereason.text.template import filled

REQUEST, ANSWER, CONTEXT = "{request}", "{answer}", "{context}"

_NO_WORD = re.compile(r"\A\W+")
_LABEL = re.compile(r"[\w ]{1,40}\W{0,2}:")
_MARKER = re.compile(r"<[^<>\n]{1,40}>|\[[^\[\]\n]{1,40}\]|\[\[")
_DECORATIONS = str.maketrans("", "", "*_#`~")


@dataclass(frozen=True)
class Frame:
    """Messages with places, as `{request}`, `{answer}` and `{context}` are, where what is judged goes."""

    messages: tuple[Message, ...]
    places: tuple[str, ...] = (REQUEST, ANSWER, CONTEXT)

    def fill(self, values: Mapping[str, str], special: Iterable[str] = ()) -> list[Message]:
        """The messages with their places filled, each value made inert.

        Args:
            values: By place.
            special: Special tokens of the tokenizer that will read it.
        """
        tokens = (*special, *self._markers)
        safe = {place: self.inert(text, tokens) for place, text in values.items()}
        return [{**message, "content": filled(message["content"], safe)} for message in self.messages]

    def inert(self, text: str, tokens: Iterable[str]) -> str:
        """Text that repeats no line of the frame and spells none of the tokens."""
        return inert(quoted(text, self._passes), tokens)

    def _passes(self, line: str) -> bool:
        """Whether a line could pass for one of the frame."""
        return line.strip().startswith(self._rules) or _core(line).startswith(self._beginnings)

    @cached_property
    def _lines(self) -> tuple[str, ...]:
        """The lines of the frame up to their first place."""
        ends = "|".join(map(re.escape, self.places))
        return tuple(re.split(ends, line)[0] for m in self.messages for line in m["content"].splitlines())

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        """How lines of the frame begin: with a label and a colon, else the whole line."""
        whole = {line for m in self.messages for line in m["content"].splitlines()}
        found = set()
        for line in map(str, self._lines):
            core = _core(line)
            if label := _LABEL.match(core):
                found.add(label[0])
            elif line in whole and len(core) > 2:
                found.add(core)
        return tuple(sorted(found))

    @cached_property
    def _rules(self) -> tuple[str, ...]:
        """Lines of the frame without a word, such as `---`."""
        return tuple(line.strip() for line in self._lines if len(line.strip()) > 2 and not _core(line))

    @cached_property
    def _markers(self) -> tuple[str, ...]:
        return tuple(sorted({marker for m in self.messages for marker in _MARKER.findall(m["content"])}))


def _core(line: str) -> str:
    """The words of a line without what decorates them, in lower case."""
    bare = line.translate(_DECORATIONS).rstrip(" \t\"'")
    return _NO_WORD.sub("", bare, count=1).casefold()
