"""A finding in the Moderation API's words.

The largest category score is always the probability of `unsafe`, so that whatever takes the largest takes that; a guard
without probabilities gives 1 or 0 by its label.
"""

from safereason.guard.base import Finding
from safereason.guard.server.mapping import NAMES, Mapping
from safereason.guard.server.schema import Result


def result(finding: Finding, mapping: Mapping, threshold: float | None) -> Result:
    """The result for one text; a finding without a verdict is flagged, for certain.

    The names of its categories get its score and the others 0. Where it names none, as where it says `safe`, the score
    goes to the names of `*`.
    """
    score = finding.score if finding.score is not None else float(finding.label != "safe")
    flagged = finding.label != "safe" if threshold is None or finding.unparsed else score >= threshold
    named = mapping.of(finding.categories)
    return Result(
        flagged=flagged,
        categories={name: flagged and name in named for name in NAMES},
        category_scores={name: score if name in named else 0.0 for name in NAMES},
        category_applied_input_types={name: ["text"] for name in NAMES},
    )
