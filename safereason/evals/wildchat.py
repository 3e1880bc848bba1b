"""Compliance with what people ask: 500 requests drawn from WildChat (arXiv 2405.01470; TARS, arXiv 2507.00971, §5).

Deviation: (1) which 500 the paper drew is not known; these are drawn by the seed.
"""

from collections.abc import Sequence

from safereason.evals.base import Eval, Outcome, published
from safereason.evals.figures import FORM, complied, form
from safereason.evals.metrics import Figure, share


def figures(outcomes: Sequence[Outcome], measures: str) -> list[Figure]:
    """`compliance`; then what the completions look like."""
    return [share("compliance", map(complied, outcomes)), *form(outcomes)]


WILDCHAT = Eval(
    name="wildchat",
    summary="Compliance with users' requests drawn from WildChat",
    sources=published("wildchat"),
    keeps=lambda example: example.kind != "harmful",
    figures=figures,
    reports=("compliance", *FORM),
    judge=lambda section: section.refusal_judge,
    measures=("refusal",),
    draws=500,
)
