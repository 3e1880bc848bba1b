"""Compliance with users' requests: 500 requests drawn from WildChat (arXiv 2405.01470; TARS, arXiv 2507.00971, §5).

Deviation: (1) which 500 the paper drew is not known; these are drawn by the seed.
"""

from collections.abc import Sequence

from safereason.evals.base import Eval, Outcome, published
from safereason.evals.figures import FORMAT_FIGURES, complied, format_figures
from safereason.evals.metrics import Figure, FigureInfo, share
from safereason.judges.base import Measure


def wildchat_figures(outcomes: Sequence[Outcome], measure: Measure | None) -> list[Figure]:
    """`compliance`; then the format of the completions."""
    return [share("compliance", map(complied, outcomes)), *format_figures(outcomes)]


WILDCHAT = Eval(
    name="wildchat",
    title="WildChat",
    summary="Compliance with users' requests drawn from WildChat",
    sources=published("wildchat"),
    keeps=lambda example: example.kind != "harmful",
    figures=wildchat_figures,
    reports=(FigureInfo("compliance", "Compliance", headline=True), *FORMAT_FIGURES),
    judge=lambda section: section.refusal_judge,
    measures=("refusal",),
    # As many as the paper has.
    draws=500,
)
