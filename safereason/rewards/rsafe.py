r"""RSafe's reward: 0.9 · accuracy + 0.1 · format of a guard's verdict (arXiv 2506.07736, §3).

Format: the whole text reads `<think>` … `</think>` … `\boxed{` … `}` …, from its first character. Accuracy: the last
box, its braces balanced and white space at its ends left out, is the label whatever its case, and only if the format
holds.

Deviation: (1) a row without a label has no total, where the released code would count it as wrong.
"""

from collections.abc import Sequence
from typing import NamedTuple

from safereason.data.example import Label
from safereason.rewards.base import RewardParts, RewardRow
from safereason.text import verdict

ACCURACY_WEIGHT = 0.9
FORMAT_WEIGHT = 0.1


class RSafeReward(NamedTuple):
    """A verdict's reward; accuracy and format are 0 or 1."""

    total: float
    accuracy: float
    format: float


def score(
    text: str,
    label: Label,
    require_reasoning: bool = True,
    *,
    accuracy_weight: float = ACCURACY_WEIGHT,
    format_weight: float = FORMAT_WEIGHT,
) -> RSafeReward:
    """Rewards a guard's text; without `require_reasoning` the format is a box alone (the "no reasoning" variant)."""
    form = float(verdict.is_well_formed(text, require_reasoning))
    accuracy = form * (verdict.parse(text) == label)
    return RSafeReward(accuracy_weight * accuracy + format_weight * form, accuracy, form)


class VerdictReward:
    """Scores rollouts of a guard, each against its row's label."""

    def __init__(self, accuracy_weight: float, format_weight: float, require_reasoning: bool) -> None:
        self._weights = {"accuracy_weight": accuracy_weight, "format_weight": format_weight}
        self._require_reasoning = require_reasoning

    def score(self, rows: Sequence[RewardRow]) -> list[RewardParts]:
        """Parts `accuracy` and `format`; for the log alone, `unparsed` and, of what can be read, `says_unsafe`."""
        return [self._one(row) for row in rows]

    def _one(self, row: RewardRow) -> RewardParts:
        found = verdict.parse(row.text)
        said: dict[str, float | None] = {
            "unparsed": float(found is None),
            "says_unsafe": None if found is None else float(found == "unsafe"),
        }
        if row.label is None:
            return RewardParts(None, {"accuracy": None, "format": None, **said}, "the row has no label")
        earned = score(row.text, row.label, self._require_reasoning, **self._weights)
        return RewardParts(earned.total, {"accuracy": earned.accuracy, "format": earned.format, **said})
