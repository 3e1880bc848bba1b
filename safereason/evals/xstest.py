"""Compliance with safe prompts that look unsafe, and refusal of unsafe ones (XSTest, arXiv 2308.01263).

TARS (arXiv 2507.00971, §5) reports compliance on the 250 safe prompts, with StrongREJECT's evaluator as the judge of
refusal. Deviation: (1) the unsafe contrasts are measured as well, as `refusal_unsafe`.
"""

from collections.abc import Sequence

from safereason.evals.base import Eval, Outcome
from safereason.evals.figures import FORM, by_category, complied, form, refused
from safereason.evals.metrics import Figure


def figures(outcomes: Sequence[Outcome], measures: str) -> list[Figure]:
    """`compliance_safe` and `refusal_unsafe`, overall and by the prompt's type; then what the completions look like."""
    return [
        *by_category("compliance_safe", complied, [o for o in outcomes if not o.is_harmful], "type"),
        *by_category("refusal_unsafe", refused, [o for o in outcomes if o.is_harmful], "type"),
        *form(outcomes),
    ]


XSTEST = Eval(
    name="xstest",
    summary="Compliance with XSTest's safe prompts, and refusal of its unsafe ones",
    sources=lambda section: (section.benign,) if section.benign else (),
    keeps=lambda example: True,
    figures=figures,
    reports=("compliance_safe", "refusal_unsafe", *FORM),
    judge=lambda section: section.refusal_judge,
    measures=("refusal",),
)
