"""Our figures beside the papers' own, and whether an interval of ours covers theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safereason import evals
from safereason.errors import InputError
from safereason.evals.metrics import Figure, FigureInfo
from safereason.evals.paper import PaperFigure, covered, departures
from safereason.evals.paper_match import Origin, matching_figure
from safereason.report.read import MeasuredModel, Run, of_stage, read_run
from safereason.report.tables import read_figures


@dataclass(frozen=True)
class PaperComparison:
    """One figure of a model beside the matching figure of a paper."""

    model: MeasuredModel
    figure: Figure
    paper: PaperFigure
    covers: bool | None
    """Whether the interval, widened by the tolerance, holds the paper's value; None where there is no interval."""
    departures: tuple[str, ...]
    """Differences of our measurement from the paper's, in words."""

    @property
    def info(self) -> FigureInfo:
        """The description of the figure."""
        return evals.figure_info(self.paper.evaluation, self.figure.name)


def compare_with_paper(runs: Sequence[Run], models: Sequence[MeasuredModel]) -> list[PaperComparison]:
    """Every figure that a paper also gives of such a model, by evaluation and figure, then in the models' order."""
    models_by_subject = {model.subject: model for model in models}
    comparisons = []
    for run in of_stage(runs, "eval"):
        model = models_by_subject[run.subject]
        for figure in read_figures(run):
            paper = matching_paper_figure(run, figure, runs)
            # No row without a match: a figure of another model or of other prompts would mislead.
            if paper is not None:
                covers = covered(figure, paper)
                comparisons.append(PaperComparison(model, figure, paper, covers, departures(run.metrics)))

    model_order = list(models)

    def position(row: PaperComparison) -> tuple[str, str, str, int]:
        return row.paper.evaluation, row.figure.name, row.figure.group, model_order.index(row.model)

    return sorted(comparisons, key=position)


def matching_paper_figure(run: Run, figure: Figure, runs: Sequence[Run] = ()) -> PaperFigure | None:
    """The papers' figure of the same quantity, prompts and kind of model; None where they have none.

    Args:
        run: A run of an evaluation.
        figure: One of its figures.
        runs: Further runs, one of which may have trained the model.
    """
    evaluation = run.stage.removeprefix("eval/")
    origin = origin_of(run, runs)
    return matching_figure(evaluation, figure.name, figure.group, origin, run.metrics, run.identity)


def origin_of(run: Run, runs: Sequence[Run]) -> Origin:
    """Origin of the model of an evaluation, as far as these runs tell."""
    training = _training_run_of(run, runs)
    if training is None:
        return Origin(run.model)
    return Origin(run.model, training.base_model, training.harmful_ratio)


def _training_run_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """The run that trained the model, or another run of the same recipe; None where neither is known."""
    for other in runs:
        if other.name == run.model:
            return other
    # The training run is not on the page. The evaluation itself has the base model and λ, if its recipe is the same.
    if run.recipe == Origin(run.model).recipe:
        return run
    # Last, the evaluation may have been pointed at the folder of the training run itself.
    try:
        named_run = read_run(Path(run.base_model or ""))
    except InputError:
        return None
    if named_run.name == run.model:
        return named_run
    return None
