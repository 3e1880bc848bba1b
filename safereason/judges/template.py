"""Templates of judges' prompts: a text in a slot cannot imitate a part of the prompt around it.

What a model wrote stays what it wrote except where it could pass for something else:

- A line that begins as a line of the template does is put behind `> `, as a quotation.
- A marker of the template, such as `</answer>` or `[BEHAVIOR]`, and a special token of the judge's tokenizer or of
  another family's is made inert: see `text/inert.py`.
- Slots that it spells are not filled.
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
# A label such as `Verdict:`, `[Answer]:` or `**Response**:`: some words and a colon close behind them.
_LABEL = re.compile(r"[\w ]{1,40}\W{0,2}:")
# Tags, names in square brackets, and the `[[` that many rubrics have around a verdict.
_MARKER = re.compile(r"<[^<>\n]{1,40}>|\[[^\[\]\n]{1,40}\]|\[\[")
_DECORATIONS = str.maketrans("", "", "*_#`~")


@dataclass(frozen=True)
class JudgeTemplate:
    """Messages with slots, such as `{request}`, `{answer}` and `{context}`, for the texts that are judged."""

    messages: tuple[Message, ...]
    slots: tuple[str, ...] = (REQUEST, ANSWER, CONTEXT)

    def fill(self, values: Mapping[str, str], special: Iterable[str] = ()) -> list[Message]:
        """The messages with their slots filled, each value made inert.

        Args:
            values: Text of each slot.
            special: Special tokens of the tokenizer that will read it.
        """
        # The template's own markers count like special tokens: an answer may not close its own quotation.
        tokens = (*special, *self._markers)
        inert_values: dict[str, str] = {}
        for slot, text in values.items():
            inert_values[slot] = self.inert(text, tokens)
        messages: list[Message] = []
        for message in self.messages:
            messages.append({**message, "content": filled(message["content"], inert_values)})
        return messages

    def inert(self, text: str, tokens: Iterable[str]) -> str:
        """Text that repeats no line of the template and spells none of the tokens."""
        # Lines are quoted first: a replaced character could hide a line from the comparison.
        return inert(quoted(text, self._passes), tokens)

    def _passes(self, line: str) -> bool:
        """Whether a line could pass for one of the template."""
        return line.strip().startswith(self._rules) or _core(line).startswith(self._beginnings)

    @cached_property
    def _lines(self) -> tuple[str, ...]:
        """The lines of the template up to their first slot."""
        slot = re.compile("|".join(map(re.escape, self.slots)))
        lines: list[str] = []
        for line in self._whole_lines:
            lines.append(slot.split(line)[0])
        return tuple(lines)

    @cached_property
    def _whole_lines(self) -> tuple[str, ...]:
        lines: list[str] = []
        for message in self.messages:
            lines.extend(message["content"].splitlines())
        return tuple(lines)

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        """Beginnings of the template's lines: a label with its colon, else the whole line."""
        beginnings: set[str] = set()
        for line in self._lines:
            core = _core(line)
            label = _LABEL.match(core)
            if label:
                beginnings.add(label[0])
            # A line that was cut at a slot has no wording of its own that identifies it.
            elif line in self._whole_lines and len(core) > 2:
                beginnings.add(core)
        return tuple(sorted(beginnings))

    @cached_property
    def _rules(self) -> tuple[str, ...]:
        """Lines of the template without a word, such as `---`."""
        rules: list[str] = []
        for line in self._lines:
            # One or two signs, such as a bullet, are too common to be quoted.
            if len(line.strip()) > 2 and not _core(line):
                rules.append(line.strip())
        return tuple(rules)

    @cached_property
    def _markers(self) -> tuple[str, ...]:
        markers: set[str] = set()
        for message in self.messages:
            markers.update(_MARKER.findall(message["content"]))
        return tuple(sorted(markers))


def _core(line: str) -> str:
    """The words of a line without what decorates them, in lower case."""
    # A model reads `**Verdict:**` and `# verdict:` as the same line.
    bare = line.translate(_DECORATIONS).rstrip(" \t\"'")
    return _NO_WORD.sub("", bare, count=1).casefold()
