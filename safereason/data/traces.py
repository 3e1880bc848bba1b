"""Reasoning traces for SFT from a teacher's replies: small faults of form are repaired, and other faults get a name.

A trace that is kept passes both papers' format checks once `text.reasoning.join` has put it together. Splitting that
text gives the same trace again.
"""

import re
from collections.abc import Sequence
from typing import TypeAlias

from safereason.text import verdict
from safereason.text.reasoning import CLOSE, OPEN, Reasoned
from safereason.text.verdict import Label

KEPT = "kept"
FAILED = "failed"
"""The teacher could not be reached, or its server ended the reply."""
FILTERED = "filtered by the provider"
TRUNCATED = "truncated"
NEVER_CLOSED = "never closed"
TAGS = "tags more than once"
"""A second tag, such as one inside the answer: it is unclear where the reasoning ends."""
TEXT_BEFORE = "text before the reasoning"
EMPTY_REASONING = "empty reasoning"
"""Nothing between the tags, or no tag at all."""
EMPTY_ANSWER = "empty answer"
UNPARSED = "unparsed"
"""A guard's answer without a verdict."""
WRONG = "wrong verdict"
DUPLICATE = "a duplicate"
"""The same text as an earlier trace of its prompt."""
MORE = "more than one"
"""A further right verdict on a row that has one."""

Reading: TypeAlias = Reasoned | str
"""A trace, or the reason why a reply is none (one of the names above)."""

_OUTCOME_BY_FINISH_REASON = {"length": TRUNCATED, "filtered": FILTERED}
_FENCED = re.compile(r"```[\w-]*[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)


def read(text: str, finish_reason: str = "stop", label: Label | None = None) -> Reading:
    """The trace in one reply, or the reason why there is none.

    White space around the tags and a code fence around the whole reply are removed. A missing `<think>` is accepted,
    because the chat templates of several reasoning models write it themselves. Where the answer is itself a trace with
    tags, that trace is taken and the reasoning before it is left out.

    Args:
        text: The reply, with the generation prefix that it continues.
        finish_reason: The completion's finish reason.
        label: The right verdict, for a guard's trace.
    """
    # A reply that was cut may look complete, so its text is not considered.
    if finish_reason != "stop":
        return _OUTCOME_BY_FINISH_REASON.get(finish_reason, FAILED)
    reply = _without_code_fence(text.strip())
    before, close_tag, after = reply.partition(CLOSE)
    inner = after.strip()
    if close_tag and _is_one_trace(inner):
        # A teacher whose server returns reasoning in a field of its own writes the requested tags once more, around a
        # second text in its reply.
        before, close_tag, after = inner.partition(CLOSE)
    if not close_tag:
        if OPEN in reply:
            return NEVER_CLOSED
        return EMPTY_REASONING
    if CLOSE in after or OPEN in after or before.count(OPEN) > 1:
        return TAGS
    reasoning = before.strip().removeprefix(OPEN).strip()
    answer = after.strip()
    if OPEN in reasoning:
        return TEXT_BEFORE
    if not reasoning:
        return EMPTY_REASONING
    if not answer:
        return EMPTY_ANSWER
    if label is not None:
        verdict_label = verdict.parse(answer)
        if not verdict_label:
            return UNPARSED
        if verdict_label != label:
            return WRONG
    return Reasoned(reasoning, answer, closed=True)


def _is_one_trace(text: str) -> bool:
    return text.startswith(OPEN) and text.count(OPEN) == text.count(CLOSE) == 1


def first_of_each(replies: Sequence[Reading], *, only_one: bool = False) -> list[Reading]:
    """The replies to one prompt, where a trace that repeats an earlier one becomes `DUPLICATE`.

    With `only_one` every other trace after the first becomes `MORE`.
    """
    kept: list[Reasoned] = []
    readings: list[Reading] = []
    for reply in replies:
        if isinstance(reply, str):
            readings.append(reply)
        elif reply in kept:
            readings.append(DUPLICATE)
        elif only_one and kept:
            readings.append(MORE)
        else:
            kept.append(reply)
            readings.append(reply)
    return readings


def _without_code_fence(text: str) -> str:
    """The text inside a code fence around all of it, or the text itself."""
    fenced = _FENCED.fullmatch(text)
    if fenced is None:
        return text
    inner = fenced.group(1)
    before, _, after = inner.partition(CLOSE)
    for part in (before, after):
        # An odd number means that the outer fences belong to two blocks, one at each end of the reply.
        if len(_FENCE.findall(part)) % 2:
            return text
    return inner.strip()
