"""Safety against compliance: our models in the plane of the paper's plots, and the paper's own beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import yaml

from safereason.evals.metrics import Figure
from safereason.evals.paper import TARS_FIGURE_2B, TARS_FIGURE_3, Point, Tradeoff
from safereason.report import plots
from safereason.report.plots import Mark, Plot, TradeoffLine
from safereason.report.read import MeasuredModel, Run, of_stage
from safereason.report.tables import Headline, evaluation_title

PLANES = {"compliance_safe": TARS_FIGURE_3, "compliance": TARS_FIGURE_2B}
"""The paper's plots, by the figure of compliance that they plot against HarmBench's DSR."""
PLOT = "tradeoff"
"""Beginning of the plots' names."""


@dataclass(frozen=True)
class PlacedModel:
    """A model with its point in the plane."""

    model: MeasuredModel
    mark: Mark


def tradeoffs(table: Headline, runs: Sequence[Run]) -> list[Plot]:
    """Each plane that a model has both figures for: ours, one for each pair of judges, then the paper's."""
    drawn = []
    for name, paper_plot in PLANES.items():
        stem = f"{PLOT}-{paper_plot.benign}"
        if paper_plot is TARS_FIGURE_3:
            stem = PLOT
        # An evaluation that two judges scored has a column for each.
        dsr_columns = _columns_of(table, "harmbench", "dsr")
        compliance_columns = _columns_of(table, paper_plot.benign, name)
        our_plots: list[Plot] = []
        for dsr_column, compliance_column in product(dsr_columns, compliance_columns):
            file_name = stem
            if our_plots:
                file_name = f"{stem}-{len(our_plots) + 1}"
            plot = _our_plot(table, dsr_column, compliance_column, runs, file_name)
            if plot is not None:
                our_plots.append(plot)
        # The paper's plot serves as a comparison, and has nothing to be compared with without ours.
        if our_plots:
            drawn += [*our_plots, _paper_plot(paper_plot, f"{stem}-paper")]
    return drawn


def _columns_of(table: Headline, evaluation: str, name: str) -> list[int]:
    """Indices of the headline's columns with this figure."""
    indices = []
    for index, column in enumerate(table.columns):
        if (column.evaluation, column.name) == (evaluation, name):
            indices.append(index)
    return indices


def _our_plot(
    table: Headline, dsr_column: int, compliance_column: int, runs: Sequence[Run], file_name: str
) -> Plot | None:
    """The plot of our models in one plane; None where no model has both figures."""
    placed = list(_placed_models(table, dsr_column, compliance_column, runs))
    if not placed:
        return None
    dsr = table.columns[dsr_column]
    compliance = table.columns[compliance_column]
    judges = " and ".join(dict.fromkeys((dsr.judge, compliance.judge)))
    caption = f"DSR on HarmBench by {judges}. Bars are 95 % intervals. Up and to the right is better."
    if any(each.mark.label for each in placed):
        caption += " Numbers are λ."
    title = f"These models, on {evaluation_title(compliance.evaluation)}"
    return plots.tradeoff(file_name, title, list(_lines_of(placed, runs)), caption)


def _placed_models(
    table: Headline, dsr_column: int, compliance_column: int, runs: Sequence[Run]
) -> Iterator[PlacedModel]:
    """The models that have a value for both figures."""
    for model, cells in table.rows:
        # A variant was measured with other settings than most models. It is not comparable with them.
        if model.variant:
            continue
        dsr = cells[dsr_column]
        compliance = cells[compliance_column]
        if dsr is None or dsr.value is None or compliance is None or compliance.value is None:
            continue
        label = _ratio_label(_harmful_ratio_of(model, runs))
        yield PlacedModel(model, Mark(label, compliance.value, dsr.value, _interval_of(compliance), _interval_of(dsr)))


def _lines_of(placed: Sequence[PlacedModel], runs: Sequence[Run]) -> Iterator[TradeoffLine]:
    """One line for models whose recipes differ in λ alone; a line of one point for each other model."""
    families: dict[str, list[PlacedModel]] = {}
    for each in placed:
        families.setdefault(_family_key(each.model, runs), []).append(each)
    roles = [members[0].model.role for members in families.values()]
    for members in families.values():
        first = members[0].model
        # The shortest name that is unique on the plot: the role, else the role with what made the models.
        label = first.label
        if roles.count(first.role) == 1:
            label = first.role
        elif len(members) > 1:
            label = f"{first.role} · {first.family}"
        marks = sorted((each.mark for each in members), key=lambda mark: mark.label)
        yield TradeoffLine(label, tuple(marks))


def _family_key(model: MeasuredModel, runs: Sequence[Run]) -> str:
    """A text that is equal for models whose recipes differ in λ alone."""
    run = _recipe_run_of(model, runs)
    if run is None or run.harmful_ratio is None:
        return model.spec
    recipe = dict(run.recipe_values)
    data = dict(recipe["data"])
    del data["harmful_ratio"]
    # A sweep gives its points names of their own, and marks the overridden value of some of them under `provenance`.
    recipe.pop("name", None)
    recipe.pop("provenance", None)
    recipe["data"] = data
    return f"{model.role} {yaml.safe_dump(recipe)}"


def _harmful_ratio_of(model: MeasuredModel, runs: Sequence[Run]) -> float | None:
    run = _recipe_run_of(model, runs)
    if run is None:
        return None
    return run.harmful_ratio


def _recipe_run_of(model: MeasuredModel, runs: Sequence[Run]) -> Run | None:
    """The run that trained a model, or a run by the same recipe that measured it; None where neither is given."""
    for run in runs:
        if run.name == model.spec:
            return run
    # Nobody here trained these, so that the recipe of an evaluation says nothing about them.
    if model.role in ("Base", "Other"):
        return None
    for run in of_stage(runs, "eval"):
        if run.model == model.spec and run.recipe == model.family:
            return run
    return None


def _ratio_label(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:g}"


def _interval_of(figure: Figure) -> tuple[float, float] | None:
    if figure.low is None or figure.high is None:
        return None
    return figure.low, figure.high


def _paper_plot(paper_plot: Tradeoff, file_name: str) -> Plot:
    """The paper's models in the same plane."""
    lines = []
    lowest = 1.0
    for series, points in paper_plot.series.items():
        marks = []
        for point in points:
            marks.append(Mark(_paper_label(series, point), point.compliance, point.dsr))
            lowest = min(lowest, point.compliance, point.dsr)
        lines.append(TradeoffLine(series, tuple(marks)))
    caption = (
        f"HarmBench under four attacks, and {evaluation_title(paper_plot.benign)}: for the shape of the trade-off, not "
        "comparable with ours in absolute terms; other axes. Numbers are λ. "
        f"{paper_plot.source}, ± {paper_plot.tolerance}."
    )
    # The axes begin at the multiple of 5 % below the lowest value. On the whole plane the models would crowd a corner.
    return plots.tradeoff(file_name, "The paper’s models", lines, caption, low=0.05 * (lowest // 0.05))


def _paper_label(series: str, point: Point) -> str:
    """λ at the points of TARS; the other series would print their numbers over each other."""
    if series != "TARS-1.5B":
        return ""
    return _ratio_label(point.harmful_ratio)
