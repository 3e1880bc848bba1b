"""Where a behavior's target stands in what the model writes: in a reasoning model there are two places for it."""

from collections.abc import Sequence
from typing import Literal

from safereason.data.example import Example
from safereason.errors import InputError
from safereason.text import reasoning

Place = Literal["reasoning", "answer"]
"""Right after the generation prefix, or as the first words of the answer. The same where no reasoning is opened."""


def opening(prefix: str, place: Place) -> str:
    """What stands between the prompt and the target: `prefix`, with an empty reasoning closed where `answer` asks."""
    if place == "reasoning" or not is_open(prefix):
        return prefix
    return prefix.rstrip("\n") + "\n" + reasoning.DELIMITER


def is_open(prefix: str) -> bool:
    """Whether a generation prefix leaves reasoning open."""
    return prefix.rfind(reasoning.OPEN) > prefix.rfind(reasoning.CLOSE)


def target_of(attack: str, behavior: Example) -> str:
    """What the answer to a behavior is to begin with.

    Raises:
        InputError: The behavior has none.
    """
    if not behavior.target:
        raise InputError(f"attack {attack}: behavior {behavior.id} has no target; {_ADVICE}")
    return behavior.target


def check_targets(attack: str, behaviors: Sequence[Example]) -> None:
    """Refuses behaviors of which some have no target.

    Raises:
        InputError: It says how many, and names the first.
    """
    without = [behavior for behavior in behaviors if not behavior.target]
    if without:
        raise InputError(
            f"attack {attack}: {len(without)} of {len(behaviors)} behaviors have no target ({without[0].id}"
            f"{', …' if len(without) > 1 else ''}); {_ADVICE}"
        )


_ADVICE = (
    "give the column `target` what the answer is to begin with, or name a source that has targets, such as harmbench, "
    "with --behaviors (of eval: --source)"
)
