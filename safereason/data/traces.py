"""Reasoning traces for SFT out of what a teacher wrote: small faults of form are mended, anything else is named.

A trace that is kept, put together by `text.reasoning.join`, passes both papers' format checks and splits into itself.
"""

import re
from collections.abc import Sequence
from typing import TypeAlias

from safereason.data.example import Label
from safereason.text import verdict
from safereason.text.reasoning import CLOSE, OPEN, Reasoned

KEPT = "kept"
FAILED = "failed"
"""The teacher could not be asked, or its server ended the reply."""
FILTERED = "filtered by the provider"
TRUNCATED = "truncated"
NEVER_CLOSED = "never closed"
TAGS = "tags more than once"
"""A second tag, such as one inside the answer: nobody can say where the reasoning ends."""
TEXT_BEFORE = "text before the reasoning"
EMPTY_REASONING = "empty reasoning"
"""Nothing between the tags, or no tag at all."""
EMPTY_ANSWER = "empty answer"
UNPARSED = "unparsed"
"""A guard's answer that holds no verdict."""
WRONG = "wrong verdict"
DUPLICATE = "a duplicate"
"""The same text as an earlier trace of its prompt."""
MORE = "more than one"
"""A right verdict on a row that has one already."""

Reading: TypeAlias = Reasoned | str
"""A trace, or why a reply holds none."""

_FENCED = re.compile(r"```[\w-]*[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)


def read(text: str, finish_reason: str = "stop", label: Label | None = None) -> Reading:
    """The trace in one reply.

    White space around the tags and a code fence around the whole are taken away. A missing `<think>` counts as written
    by the chat template, as that of several reasoning models does. Where an answer is itself reasoning between tags and
    an answer, that is the trace, and what was thought before it is left out.

    Args:
        text: The reply, with the generation prefix that it goes on from.
        finish_reason: As a completion has it.
        label: For a guard: the verdict that is right.
    """
    if finish_reason != "stop":
        return {"length": TRUNCATED, "filtered": FILTERED}.get(finish_reason, FAILED)
    whole = _unwrapped(text.strip())
    before, closed, after = whole.partition(CLOSE)
    if closed and _is_whole(inner := after.strip()):
        # Asked for tags, a teacher that reasons in a field of its own writes them once more, around what it then says.
        before, closed, after = inner.partition(CLOSE)
    if not closed:
        return NEVER_CLOSED if OPEN in whole else EMPTY_REASONING
    if CLOSE in after or OPEN in after or before.count(OPEN) > 1:
        return TAGS
    thoughts, answer = before.strip().removeprefix(OPEN).strip(), after.strip()
    if OPEN in thoughts:
        return TEXT_BEFORE
    if not (thoughts and answer):
        return EMPTY_ANSWER if thoughts else EMPTY_REASONING
    if label is not None and (said := verdict.parse(answer)) != label:
        return WRONG if said else UNPARSED
    return Reasoned(thoughts, answer, closed=True)


def _is_whole(text: str) -> bool:
    return text.startswith(OPEN) and text.count(OPEN) == text.count(CLOSE) == 1


def first_of_each(replies: Sequence[Reading], *, only_one: bool = False) -> list[Reading]:
    """One prompt's replies, where a trace that repeats an earlier one is none; with `only_one` all after the first."""
    kept: list[Reasoned] = []
    found: list[Reading] = []
    for reply in replies:
        if isinstance(reply, str):
            found.append(reply)
        elif reply in kept:
            found.append(DUPLICATE)
        elif only_one and kept:
            found.append(MORE)
        else:
            kept.append(reply)
            found.append(reply)
    return found


def _unwrapped(text: str) -> str:
    """The text without a code fence around all of it; fences that belong to the reasoning or the answer stay."""
    fenced = _FENCED.fullmatch(text)
    if fenced is None:
        return text
    inner = fenced.group(1)
    halves = inner.partition(CLOSE)[::2]
    return inner.strip() if all(len(_FENCE.findall(half)) % 2 == 0 for half in halves) else text
