"""The position of a behavior's target text in the completion of a reasoning model: its reasoning, or its answer."""

from collections.abc import Sequence
from typing import Literal

from safereason.data.example import Example
from safereason.errors import InputError
from safereason.text import reasoning

TargetPosition = Literal["reasoning", "answer"]
"""Right after the generation prefix, or at the beginning of the answer. Both are the same without open reasoning."""


def text_before_target(prefix: str, place: TargetPosition) -> str:
    """The text between the prompt and the target text: `prefix`, with its reasoning closed at once for `answer`."""
    if place == "reasoning" or not is_reasoning_open(prefix):
        return prefix
    # The delimiter is written on a line of its own, and a prefix may already end in a line break.
    return prefix.rstrip("\n") + "\n" + reasoning.DELIMITER


def is_reasoning_open(prefix: str) -> bool:
    """Whether a generation prefix ends inside the reasoning."""
    # `rfind` gives -1 for a missing tag, so that a prefix without any tag is not open.
    return prefix.rfind(reasoning.OPEN) > prefix.rfind(reasoning.CLOSE)


def require_target_text(attack: str, behavior: Example) -> str:
    """The target text of a behavior: the text that the completion shall begin with.

    Raises:
        InputError: The behavior has no target text.
    """
    if not behavior.target:
        raise InputError(f"attack {attack}: behavior {behavior.id} has no target; {_ADVICE}")
    return behavior.target


def check_target_texts(attack: str, behaviors: Sequence[Example]) -> None:
    """Refuses behaviors without a target text.

    Raises:
        InputError: Some have none; the message has their number and the first id.
    """
    without = [behavior for behavior in behaviors if not behavior.target]
    if not without:
        return
    # The first id is enough to find the source's column; a list of hundreds would hide the advice.
    listed = without[0].id
    if len(without) > 1:
        listed += ", …"
    raise InputError(
        f"attack {attack}: {len(without)} of {len(behaviors)} behaviors have no target ({listed}); {_ADVICE}"
    )


_ADVICE = (
    "give the column `target` what the answer is to begin with, or name a source that has targets, such as harmbench, "
    "with --prompts"
)
