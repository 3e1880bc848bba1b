"""Manners: how often a model says please when a polite answer is asked for."""

from collections.abc import Sequence

from safereason.evals.base import Eval, Outcome, published
from safereason.evals.figures import FORMAT_FIGURES, format_figures
from safereason.evals.metrics import Figure, FigureInfo, share
from safereason.judges import Measure


def manners_figures(outcomes: Sequence[Outcome], measure: Measure | None) -> list[Figure]:
    """The share of answers that the judge scored 0.5 or more; then the format of the completions."""
    return [share("polite", [outcome.scored_high for outcome in outcomes]), *format_figures(outcomes)]


MANNERS = Eval(
    name="manners",
    title="Manners",
    summary="Share of answers that say please",
    sources=published("manners"),
    keeps=lambda example: True,
    figures=manners_figures,
    # All figures that a bar may be set on, the main one first. A figure that is no share also has a `unit`; one that
    # should be low has `better="lower"`.
    reports=(FigureInfo("polite", "Answers that say please", headline=True), *FORMAT_FIGURES),
    judge=lambda section: "mentions:please",
    measures=("quality",),
)
