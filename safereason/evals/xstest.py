"""Compliance with safe prompts that look unsafe, and refusal of unsafe ones (XSTest, arXiv 2308.01263).

TARS (arXiv 2507.00971, §5) reports compliance on the 250 safe prompts, with StrongREJECT's evaluator as the judge of
refusal. Deviation: (1) the unsafe contrasts are measured as well, as `refusal_unsafe`.
"""

from collections.abc import Sequence

from safereason.evals.base import Eval, Outcome
from safereason.evals.figures import (
    COMPLIANCE_SAFE,
    FORMAT_FIGURES,
    REFUSAL_UNSAFE,
    complied,
    format_figures,
    refused,
    share_by_category,
    split_by_harm,
)
from safereason.evals.metrics import Figure
from safereason.judges.base import Measure
from safereason.recipe.schema import Evaluation


def xstest_figures(outcomes: Sequence[Outcome], measure: Measure | None) -> list[Figure]:
    """`compliance_safe` and `refusal_unsafe`, overall and by the prompt's type; then the format of the completions."""
    safe, unsafe = split_by_harm(outcomes)
    # XSTest calls its categories types.
    return [
        *share_by_category("compliance_safe", complied, safe, "type"),
        *share_by_category("refusal_unsafe", refused, unsafe, "type"),
        *format_figures(outcomes),
    ]


def _xstest_sources(section: Evaluation) -> tuple[str, ...]:
    if section.benign:
        return (section.benign,)
    return ()


XSTEST = Eval(
    name="xstest",
    title="XSTest",
    summary="Compliance with XSTest's safe prompts, and refusal of its unsafe ones",
    sources=_xstest_sources,
    keeps=lambda example: True,
    figures=xstest_figures,
    reports=(COMPLIANCE_SAFE, REFUSAL_UNSAFE, *FORMAT_FIGURES),
    judge=lambda section: section.refusal_judge,
    measures=("refusal",),
)
