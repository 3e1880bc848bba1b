"""Bars: what a figure has to reach, or may not pass, for a release to go out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from safereason.errors import BarNotMet, InputError
from safereason.evals.metrics import OVERALL, Figure


@dataclass(frozen=True)
class Bar:
    """One `--fail-under` or `--fail-over`. A figure of which nothing could be scored meets none."""

    figure: str
    """Named as `Figure.label` is: `dsr`, or `dsr/direct` for a group's."""
    bound: float
    side: Literal["under", "over"]
    """Where the figure fails."""

    def is_met_by(self, figure: Figure) -> bool:
        """Whether the figure's value is on the right side, or right at the bound."""
        if figure.value is None:
            return False
        return figure.value >= self.bound if self.side == "under" else figure.value <= self.bound

    def told_of(self, figure: Figure) -> str:
        """What came of it, in words."""
        value = "could not be scored" if figure.value is None else f"is {figure.value:.4f}"
        where = f"not {self.side}" if self.is_met_by(figure) else self.side
        return f"{figure.label} {value}, {where} the bar of {self.bound:g} (n = {figure.n}, {figure.unscored} unscored)"


def figures_of(metrics: Mapping[str, Any]) -> dict[str, Figure]:
    """A run's figures by their labels."""
    return {figure.label: figure for figure in (Figure(**row) for row in metrics["figures"])}


def matched(metrics: Mapping[str, Any], bars: Sequence[Bar]) -> list[tuple[Bar, Figure]]:
    """Each bar with the figure that it is set for.

    Raises:
        InputError: There is no such figure.
    """
    figures = figures_of(metrics)
    for bar in bars:
        if bar.figure not in figures:
            known = [name for name, figure in figures.items() if figure.group == OVERALL]
            raise InputError(
                f"--fail-{bar.side} {bar.figure}: eval {metrics['eval']} has no such figure; it has {', '.join(known)}"
            )
    return [(bar, figures[bar.figure]) for bar in bars]


def check(metrics: Mapping[str, Any], bars: Sequence[Bar]) -> None:
    """Holds a run's figures against bars.

    Raises:
        InputError: There is no such figure.
        BarNotMet: A bar is not met; every such one is told.
    """
    missed = [bar.told_of(figure) for bar, figure in matched(metrics, bars) if not bar.is_met_by(figure)]
    if missed:
        raise BarNotMet("; ".join(missed))
