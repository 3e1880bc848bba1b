"""Figures by category, kind or type of prompt, as plots: one for each figure, the models side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from safereason.evals.paper import known
from safereason.report import plots
from safereason.report.plots import Dots, Plot, Span
from safereason.report.read import Model, Run
from safereason.report.tables import Details, Titled, details, evaluation_title, figure_title, unit

WORDS = ("category", "type", "kind")
"""What groups of prompts are made by, as in `category:…`."""


@dataclass(frozen=True)
class Grouped:
    """The plots of one evaluation."""

    title: str
    plots: tuple[Plot, ...]


def by_group(runs: Sequence[Run], models: Sequence[Model]) -> list[Grouped]:
    """A plot for each figure that is given for two groups or more."""
    parts = []
    for number, part in enumerate(details(runs, models)):
        drawn = [
            _plot(part, name, word, members, f"groups-{part.evaluation}-{number}-{name}-{word}")
            for word in WORDS
            for name in dict.fromkeys(row.name for row in part.rows)
            if len(members := [r for r in part.rows if r.name == name and r.group.startswith(f"{word}:")]) > 1
        ]
        if drawn:
            parts.append(Grouped(f"{evaluation_title(part.evaluation)}{_on(part)} by {_words(part)}", tuple(drawn)))
    return parts


def _on(part: Details) -> str:
    return f" on {part.source}" if part.source else ""


def _words(part: Details) -> str:
    present = [word for word in WORDS if any(row.group.startswith(f"{word}:") for row in part.rows)]
    return " and ".join(present)


def _plot(part: Details, name: str, word: str, rows: Sequence[Titled], file: str) -> Plot:
    groups = [row.group.partition(":")[2] for row in rows]
    series = [Dots(model.label, tuple(_span(row, place) for row in rows)) for place, model in enumerate(part.models)]
    papers = [next(iter(known(part.evaluation, name, row.group)), None) for row in rows]
    for theirs in dict.fromkeys(paper.model for paper in papers if paper):
        values = tuple(Span(p.value) if p and p.model == theirs else None for p in papers)
        series.append(Dots(f"the paper’s {theirs}", values))
    title = f"{figure_title(name)} by {word}"
    caption = f"{part.judge}. Bars are 95 % intervals." if part.judge else "Bars are 95 % intervals."
    return plots.dots(file, title, groups, series, caption, unit(name))


def _span(row: Titled, place: int) -> Span | None:
    figure = row.figures[place]
    if figure is None or figure.value is None:
        return None
    return Span(figure.value, figure.low, figure.high)
