r"""RSafe's reward: 0.9 · accuracy + 0.1 · format of a guard's verdict (arXiv 2506.07736, §3).

Format: the whole text reads `<think>` … `</think>` … `\boxed{` … `}` …, from its first character. Accuracy: the last
box, its braces balanced and white space at its ends left out, is the label in upper or lower case, and only if the
format holds.

Deviation: (1) a row without a label has no total, where the released code would count it as wrong.
"""

from collections.abc import Sequence
from typing import NamedTuple

from safereason.rewards.base import RewardParts, RewardRow
from safereason.text import verdict
from safereason.text.verdict import Label

ACCURACY_WEIGHT = 0.9
FORMAT_WEIGHT = 0.1


class RSafeReward(NamedTuple):
    """The reward of one verdict; accuracy and format are 0 or 1."""

    total: float
    accuracy: float
    format: float


def verdict_reward(
    text: str,
    label: Label,
    require_reasoning: bool = True,
    *,
    accuracy_weight: float = ACCURACY_WEIGHT,
    format_weight: float = FORMAT_WEIGHT,
) -> RSafeReward:
    """The reward of a guard's text; without `require_reasoning` the format is a box alone ("no reasoning" variant)."""
    format_score = float(verdict.is_well_formed(text, require_reasoning))
    # A right verdict in a wrong format earns nothing: the released code multiplies the two as well.
    accuracy = format_score * (verdict.parse(text) == label)
    total = accuracy_weight * accuracy + format_weight * format_score
    return RSafeReward(total, accuracy, format_score)


class VerdictReward:
    """A reward for rollouts of a guard, each scored against the label of its row."""

    def __init__(self, accuracy_weight: float, format_weight: float, require_reasoning: bool) -> None:
        self._weights = {"accuracy_weight": accuracy_weight, "format_weight": format_weight}
        self._require_reasoning = require_reasoning

    def score(self, rows: Sequence[RewardRow]) -> list[RewardParts]:
        """Parts `accuracy` and `format`; only for the log, `unparsed` and, of parsed verdicts, `says_unsafe`."""
        return [self._score_row(row) for row in rows]

    def _score_row(self, row: RewardRow) -> RewardParts:
        label = verdict.parse(row.text)
        # Neither is rewarded. They show early when a guard stops answering, or calls everything unsafe.
        logged: dict[str, float | None] = {"unparsed": float(label is None), "says_unsafe": None}
        if label is not None:
            logged["says_unsafe"] = float(label == "unsafe")
        if row.label is None:
            return RewardParts(None, {"accuracy": None, "format": None, **logged}, "the row has no label")
        reward = verdict_reward(row.text, row.label, self._require_reasoning, **self._weights)
        return RewardParts(reward.total, {"accuracy": reward.accuracy, "format": reward.format, **logged})
