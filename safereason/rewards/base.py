"""What a reward is given, what it gives back, and the contract every reward keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from safereason.data.example import Kind, Label


@dataclass(frozen=True)
class RewardRow:
    """One rollout."""

    prompt: str
    """What the user said."""
    kind: Kind
    """What the prompt is, by its source."""
    text: str
    """The policy's own text, after the reasoning that the chat template opened, if it did; no other special tokens."""
    label: Label | None = None
    """The right verdict, for a guard's rollout."""
    response: str | None = None
    """The agent's response that a guard's rollout judges."""


@dataclass(frozen=True)
class RewardParts:
    """What a rollout earned, whole and in parts."""

    total: float | None
    """What GRPO maximises; None where the part that decides is unscored."""
    parts: dict[str, float | None]
    """By name, for the log; None where a part was not asked for or is unscored."""
    reason: str | None = None
    """Why the total is None."""
    failed: bool = False
    """Whether it is None because a verdict could not be had, so that it is worth asking for again."""
    judged: bool = False
    """Whether a judge was asked for it, and gave a score."""


class Reward(Protocol):
    """Scores rollouts, in order."""

    def score(self, rows: Sequence[RewardRow]) -> list[RewardParts]:
        """One result a row."""
        ...
