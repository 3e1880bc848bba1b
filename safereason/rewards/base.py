"""The contract of a reward: its input rows, its result, and how it is called."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from safereason.data.example import PromptKind
from safereason.text.verdict import Label


@dataclass(frozen=True)
class RewardRow:
    """One rollout, as a reward reads it."""

    prompt: str
    """Text of the user's prompt."""
    kind: PromptKind
    """Harmful, harmless or ambiguous, as the prompt's source labels it."""
    text: str
    """The completion of the model being trained, with the reasoning tag that the chat template opened, if it did.
    It holds no other special tokens."""
    label: Label | None = None
    """The right verdict, for a guard's rollout."""
    response: str | None = None
    """The agent's response that a guard's rollout judges."""


@dataclass(frozen=True)
class RewardParts:
    """The reward of one rollout, as a whole and in parts."""

    total: float | None
    """The number that GRPO maximises; None where the deciding part is unscored."""
    parts: dict[str, float | None]
    """Parts by name, for the log; None where a part was not requested or is unscored."""
    reason: str | None = None
    """Reason why the total is None; None where it is not."""
    failed: bool = False
    """Whether the total is None because a judge could not be reached. Another request may then give a score."""
    judged: bool = False
    """Whether a judge gave a score for this rollout."""


@runtime_checkable
class Parkable(Protocol):
    """A judge whose model can leave the GPU to others between scorings; the next scoring brings it back."""

    def park(self) -> None:
        """Moves the model to the CPU's memory."""
        ...


class Reward(Protocol):
    """An object that scores rollouts."""

    def score(self, rows: Sequence[RewardRow]) -> list[RewardParts]:
        """One result for each row, in the order of the rows."""
        ...
