"""Our figures beside the papers' own, and whether an interval of ours covers theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safereason.errors import InputError
from safereason.evals.metrics import Figure
from safereason.evals.paper import PaperFigure, covered, departures
from safereason.evals.paper_like import Origin, like
from safereason.report.read import Model, Run, of_stage, read_run
from safereason.report.tables import figures_of


@dataclass(frozen=True)
class Beside:
    """One figure of a model, and the paper's that is like it."""

    model: Model
    figure: Figure
    paper: PaperFigure
    covers: bool | None
    """Whether the interval, widened by the tolerance, holds the paper's value; None where there is no interval."""
    departures: tuple[str, ...]
    """How ours was measured otherwise."""


def beside(runs: Sequence[Run], models: Sequence[Model]) -> list[Beside]:
    """Every figure that a paper gives of such a model too, by evaluation and figure, then in the models' order."""
    by_subject = {model.subject: model for model in models}
    found = [
        Beside(by_subject[run.subject], figure, paper, covered(figure, paper), departures(run.metrics))
        for run in of_stage(runs, "eval")
        for figure in figures_of(run)
        if (paper := of_paper(run, figure, runs))
    ]
    order = list(models)
    return sorted(found, key=lambda b: (b.paper.evaluation, b.figure.name, b.figure.group, order.index(b.model)))


def of_paper(run: Run, figure: Figure, runs: Sequence[Run] = ()) -> PaperFigure | None:
    """The papers' figure that is like one of a run's; None where they have none.

    Args:
        run: Of an evaluation.
        figure: One of its figures.
        runs: Further ones at hand, that may have made its model.
    """
    origin = origin_of(run, runs)
    return like(run.stage.removeprefix("eval/"), figure.name, figure.group, origin, run.metrics, run.identity)


def origin_of(run: Run, runs: Sequence[Run]) -> Origin:
    """How the model of an evaluation came about, as far as the runs at hand say."""
    named = Origin(run.model)
    maker = _maker(run, runs)
    return named if maker is None else Origin(run.model, maker.base_model, maker.harmful_ratio)


def _maker(run: Run, runs: Sequence[Run]) -> Run | None:
    """The run that made the model; where it is not at hand, the evaluation itself, if it is of the same recipe."""
    made = next((other for other in runs if other.name == run.model), None)
    if made is not None:
        return made
    if run.recipe == Origin(run.model).recipe:
        return run
    try:
        there = read_run(Path(run.base_model or ""))
    except InputError:
        return None
    return there if there.name == run.model else None
