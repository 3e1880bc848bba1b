"""Our figures beside the papers' own, and whether an interval of ours covers theirs."""

from collections.abc import Sequence
from dataclasses import dataclass

from safereason.evals.metrics import Figure
from safereason.evals.paper import PaperFigure, covered, departures, nearest
from safereason.report.read import Model, Run, of_stage
from safereason.report.tables import figures_of


@dataclass(frozen=True)
class Beside:
    """One figure of a model, and the paper's nearest to it."""

    model: Model
    figure: Figure
    paper: PaperFigure
    covers: bool | None
    """Whether the interval, widened by the tolerance, holds the paper's value; None where there is no interval."""
    departures: tuple[str, ...]
    """How ours was measured otherwise."""


def beside(runs: Sequence[Run], models: Sequence[Model]) -> list[Beside]:
    """Every figure that a paper gives too, by evaluation and figure, then in the models' order."""
    by_spec = {model.spec: model for model in models}
    found = [
        Beside(by_spec[run.model], figure, paper, covered(figure, paper), departures(run.metrics))
        for run in of_stage(runs, "eval")
        # The paper's plane is UMAP's; margins of another one have another unit.
        if run.metrics.get("projection", "umap") == "umap"
        for figure in figures_of(run)
        if (paper := nearest(run.stage.removeprefix("eval/"), figure.name, figure.group, run.recipe))
    ]
    order = list(models)
    return sorted(found, key=lambda b: (b.paper.evaluation, b.figure.name, b.figure.group, order.index(b.model)))
