"""Bars: the least or the most that a figure may be for a release to go out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from safereason.errors import BarNotMet, InputError
from safereason.evals.metrics import OVERALL, Figure, recorded_figures
from safereason.runs.directory import Metrics

"""The contents of a run's `metrics.json`."""


@dataclass(frozen=True)
class Bar:
    """One `--fail-under` or `--fail-over`. A figure without any scored item meets no bar."""

    figure: str
    """The figure's `Figure.label`: `dsr`, or `dsr/direct` for a group's."""
    bound: float
    side: Literal["under", "over"]
    """The side of the bound on which the figure fails."""

    def is_met_by(self, figure: Figure) -> bool:
        """Whether the figure's value is on the right side, or right at the bound."""
        # A release must not pass because nothing could be measured.
        if figure.value is None:
            return False
        if self.side == "under":
            return figure.value >= self.bound
        return figure.value <= self.bound

    def result_for(self, figure: Figure) -> str:
        """The result for a figure, in words."""
        value = "could not be scored"
        if figure.value is not None:
            value = f"is {figure.value:.4f}"
        side: str = self.side
        if self.is_met_by(figure):
            side = f"not {self.side}"
        return f"{figure.label} {value}, {side} the bar of {self.bound:g} (n = {figure.n}, {figure.unscored} unscored)"


def figures_by_label(metrics: Metrics) -> dict[str, Figure]:
    """A run's figures by their labels."""
    return {figure.label: figure for figure in recorded_figures(metrics, f"eval {metrics.get('eval')}")}


def match_bars(metrics: Metrics, bars: Sequence[Bar]) -> list[tuple[Bar, Figure]]:
    """Each bar with the figure that it is set for.

    Raises:
        InputError: There is no such figure.
    """
    figures = figures_by_label(metrics)
    for bar in bars:
        # A bar for a figure that does not exist would never fail. The groups are too many to be listed.
        if bar.figure not in figures:
            known = [name for name, figure in figures.items() if figure.group == OVERALL]
            raise InputError(
                f"--fail-{bar.side} {bar.figure}: eval {metrics['eval']} has no such figure; it has {', '.join(known)}"
            )
    return [(bar, figures[bar.figure]) for bar in bars]


def refuse_unmet_bars(metrics: Metrics, bars: Sequence[Bar]) -> None:
    """Compares a run's figures with bars.

    Raises:
        InputError: There is no such figure.
        BarNotMet: A bar is not met; the message names all of these.
    """
    # All missed bars in one message: otherwise a release would take one run of the command for each.
    missed = []
    for bar, figure in match_bars(metrics, bars):
        if not bar.is_met_by(figure):
            missed.append(bar.result_for(figure))
    if missed:
        raise BarNotMet("; ".join(missed))
