"""Figures by category, kind or type of prompt, as plots: one for each figure, the models side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from safereason.evals.metrics import FigureInfo
from safereason.evals.paper import PaperFigure, known
from safereason.report import plots
from safereason.report.plots import Dots, Plot, Span
from safereason.report.read import MeasuredModel, Run
from safereason.report.tables import Details, FigureRow, details, evaluation_title, figure_title

WORDS = ("category", "type", "kind")
"""Words that the names of groups of prompts begin with, as in `category:…`."""
PLOT = "groups-"
"""Beginning of the plots' names."""


@dataclass(frozen=True)
class Grouped:
    """The plots of one evaluation."""

    title: str
    plots: tuple[Plot, ...]


def by_group(runs: Sequence[Run], models: Sequence[MeasuredModel]) -> list[Grouped]:
    """A plot for each figure that two groups or more have, evaluation by evaluation."""
    grouped = []
    for number, evaluation in enumerate(details(runs, models)):
        # One evaluation may be there several times, by other judges or sources. The number keeps file names apart.
        evaluation_plots = _plot_evaluation(evaluation, f"{PLOT}{evaluation.evaluation}-{number}")
        if evaluation_plots:
            grouped.append(Grouped(_grouped_title(evaluation), tuple(evaluation_plots)))
    return grouped


def _plot_evaluation(evaluation: Details, file_stem: str) -> list[Plot]:
    """The plots of one evaluation: those by category, then by type, then by kind."""
    drawn = []
    reported = dict.fromkeys(row.info for row in evaluation.rows)
    for word in WORDS:
        for info in reported:
            rows = _rows_by(evaluation, word, info)
            # One group alone repeats the figure over all prompts.
            if len(rows) > 1:
                drawn.append(_plot_groups(evaluation, info, word, rows, f"{file_stem}-{info.name}-{word}"))
    return drawn


def _rows_by(evaluation: Details, word: str, info: FigureInfo | None = None) -> list[FigureRow]:
    """The rows whose group begins with a word, of one figure or of all."""
    rows = []
    for row in evaluation.rows:
        if row.group.startswith(f"{word}:") and info in (None, row.info):
            rows.append(row)
    return rows


def _grouped_title(evaluation: Details) -> str:
    """`SORRY-Bench on mine.jsonl by category and kind`."""
    title = evaluation_title(evaluation.evaluation)
    if evaluation.source:
        title += f" on {evaluation.source}"
    words = [word for word in WORDS if _rows_by(evaluation, word)]
    return f"{title} by {' and '.join(words)}"


def _plot_groups(evaluation: Details, info: FigureInfo, word: str, rows: Sequence[FigureRow], file: str) -> Plot:
    """One figure by group: a series for each model, then one for each model of the papers that has values."""
    groups = [row.group.partition(":")[2] for row in rows]
    series = []
    for index, model in enumerate(evaluation.models):
        spans = tuple(_model_span(row, index) for row in rows)
        series.append(Dots(model.label, spans))
    series += _paper_series(evaluation.evaluation, info.name, rows)
    caption = "Bars are 95 % intervals."
    if evaluation.judge:
        caption = f"{evaluation.judge}. {caption}"
    return plots.dots(file, f"{figure_title(info)} by {word}", groups, series, caption, info.unit)


def _paper_series(evaluation: str, name: str, rows: Sequence[FigureRow]) -> list[Dots]:
    """The papers' values of a figure by group, one series for each model of theirs."""
    paper_figures: list[PaperFigure | None] = []
    for row in rows:
        # The first one known is of the paper's main model.
        paper_figures.append(next(iter(known(evaluation, name, row.group)), None))
    paper_models = dict.fromkeys(paper.model for paper in paper_figures if paper)
    # The values of one row of groups may be of several models, which need a marker each.
    series = []
    for model in paper_models:
        spans: list[Span | None] = []
        for paper in paper_figures:
            if paper and paper.model == model:
                spans.append(Span(paper.value))
            else:
                spans.append(None)
        series.append(Dots(f"the paper’s {model}", tuple(spans)))
    return series


def _model_span(row: FigureRow, model_index: int) -> Span | None:
    """The value of one model in a row with its interval; None where it has none."""
    figure = row.figures[model_index]
    if figure is None or figure.value is None:
        return None
    return Span(figure.value, figure.low, figure.high)
