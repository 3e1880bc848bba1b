"""Where a behavior's target stands in what the model writes: in a reasoning model there are two places for it."""

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
        raise InputError(
            f"attack {attack}: behavior {behavior.id} has no target; give the column `target` what its answer is to "
            "begin with"
        )
    return behavior.target
