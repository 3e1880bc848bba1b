"""A judge's prompt, and what is put into it: text that can repeat no part of the prompt's frame.

What a model wrote stays what it wrote except where it could pass for something else:

- A line that begins as a line of the frame does is put behind `> `, as a quotation.
- The bracket of a marker of the frame, such as `</answer>` or `[BEHAVIOR]`, of a chat turn and of Llama 2's marks of
  an instruction becomes `‹` or `⟦`.
- A special token of the judge's tokenizer is broken by a space.
- Places in it are not filled.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from safereason.engines.base import Engine
from safereason.guard.others.base import inert
from safereason.text.chat import Message
from safereason.text.defuse import broken
from safereason.text.template import filled

REQUEST, ANSWER, CONTEXT = "{request}", "{answer}", "{context}"

_BREAK = re.compile(r"(\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])")
_LABEL = re.compile(r"[\w ]{1,40}\W{0,2}:")
_MARKER = re.compile(r"<[^<>\n]{1,40}>|\[[^\[\]\n]{1,40}\]|\[\[")
_BRACKETS = {"<": "‹", "[": "⟦"}


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
        safe = {place: broken(self.inert(text), special) for place, text in values.items()}
        return [{**message, "content": filled(message["content"], safe)} for message in self.messages]

    def inert(self, text: str) -> str:
        """Text that repeats no line and no marker of the frame, and opens no chat turn."""
        parts = _BREAK.split(inert(text))
        quoted = "".join(f"> {part}" if self._passes(part) else part for part in parts)
        return self._markers.sub(lambda found: f"{_BRACKETS[found[0][0]]}{found[0][1:]}", quoted)

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
    def _markers(self) -> re.Pattern[str]:
        found = {marker for m in self.messages for marker in _MARKER.findall(m["content"])}
        patterns = [r"\s*".join(map(re.escape, [m[0], *re.findall(r"\w+|\S", m[1:])])) for m in found]
        return re.compile("|".join(sorted(patterns, key=len, reverse=True)) or r"(?!)", re.IGNORECASE)


def special_tokens(engine: Engine) -> Sequence[str]:
    """The special tokens of an engine's tokenizer; none where it is a server's and not known."""
    tokenizer = getattr(engine, "tokenizer", None)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return tuple(token.content for token in added.values() if token.special)


def _core(line: str) -> str:
    """The words of a line without what decorates them, in lower case."""
    return re.sub(r"^\W+|[*_#`~]|[ \t\"']+$", "", line).casefold()
