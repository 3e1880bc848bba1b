"""Verdicts in the format of the Moderation API.

The largest category score is always the probability of `unsafe`, so that clients that look at the largest one get it. A
guard without probabilities scores 1 or 0 by its label.
"""

from safereason.guard.base import GuardVerdict
from safereason.guard.server.mapping import API_CATEGORIES, Mapping
from safereason.guard.server.schema import ModerationResult


def result(verdict: GuardVerdict, mapping: Mapping, threshold: float | None) -> ModerationResult:
    """The API's result for one text. A text without a label is flagged, with a score of 1.

    The categories of the verdict get its score and all others 0. Without categories, as for `safe`, the categories of
    `*` get the score.
    """
    score = verdict.score
    if score is None:
        score = float(verdict.label != "safe")
    flagged = _is_flagged(verdict, score, threshold)
    mapped = mapping.of(verdict.categories)
    return ModerationResult(
        flagged=flagged,
        categories={name: flagged and name in mapped for name in API_CATEGORIES},
        category_scores={name: score if name in mapped else 0.0 for name in API_CATEGORIES},
        category_applied_input_types={name: ["text"] for name in API_CATEGORIES},
    )


def _is_flagged(verdict: GuardVerdict, score: float, threshold: float | None) -> bool:
    # A text without a label is flagged under any threshold: its score of 1 is no probability.
    if threshold is None or verdict.unparsed:
        return verdict.label != "safe"
    return score >= threshold
