"""Over-refusal of OR-Bench's hard safe prompts, and refusal of its toxic ones (arXiv 2405.20947), by category.

`over_refusal` is 1 − `compliance_safe`: the quantity that OR-Bench reports. Deviation: (1) refusal is judged by the
recipe's judge, where OR-Bench asks a chat model; what it cannot score is counted apart.
"""

from collections.abc import Sequence

from safereason.evals.base import Eval, Outcome, published
from safereason.evals.figures import FORM, by_category, complied, form, refused
from safereason.evals.metrics import Figure, share


def figures(outcomes: Sequence[Outcome], measures: str) -> list[Figure]:
    """`compliance_safe`; `over_refusal` and `refusal_unsafe`, overall and by category; then the form."""
    safe = [o for o in outcomes if not o.is_harmful]
    return [
        share("compliance_safe", map(complied, safe)),
        *by_category("over_refusal", refused, safe),
        *by_category("refusal_unsafe", refused, [o for o in outcomes if o.is_harmful]),
        *form(outcomes),
    ]


ORBENCH = Eval(
    name="orbench",
    summary="Over-refusal of OR-Bench's hard safe prompts, and refusal of its toxic ones",
    sources=published("or-bench-hard", "or-bench-toxic"),
    keeps=lambda example: True,
    figures=figures,
    reports=("compliance_safe", "over_refusal", "refusal_unsafe", *FORM),
    judge=lambda section: section.refusal_judge,
    measures=("refusal",),
)
