"""Plot of a run of `eval separation`: the places of harmful and harmless prompts inside a model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from safereason.report import plots
from safereason.report.plots import Cloud, Plot
from safereason.report.read import MeasuredModel, Run, by_subject, number, of_stage

if TYPE_CHECKING:
    from safereason.evals.separation import Boundary, Points, Truths

PLOT = "separation-"
"""Beginning of the plots' names."""


def separations(runs: Sequence[Run], models: Sequence[MeasuredModel]) -> list[Plot]:
    """A plot for each model that was measured, in the models' order."""
    runs_by_subject = by_subject(of_stage(runs, "eval/separation"))
    drawn = []
    for model_number, model in enumerate(models, start=1):
        if model.subject not in runs_by_subject:
            continue
        plot = _plot_run(f"{PLOT}{model_number}", model, runs_by_subject[model.subject])
        if plot is not None:
            drawn.append(plot)
    return drawn


def picture(name: str, title: str, points: "Points", harmful: "Truths", line: "Boundary", projection: str) -> Plot:
    """The plot of points [N, 2], of which `harmful` [N] marks the harmful ones, and the line for C = 1.0."""
    clouds = []
    for kind, mask in (("harmful", harmful), ("harmless", ~harmful)):
        clouds.append(Cloud(f"{kind} ({mask.sum()})", points[mask].tolist()))
    margin = "none"
    if line.margin is not None:
        margin = f"{line.margin:.2f}"
    caption = f"Final layer, last token of the prompt, {projection.upper()}; C = 1.0, margin {margin}."
    return plots.plane(name, title, clouds, (*line.w, line.b), caption)


def _plot_run(name: str, model: MeasuredModel, run: Run) -> Plot | None:
    """The plot of one run; None where its points are not of both kinds."""
    import numpy as np

    from safereason.evals.separation import separate

    is_harmful = []
    positions = []
    for row in run.records("points"):
        x = number(row.get("x"))
        y = number(row.get("y"))
        if x is not None and y is not None:
            is_harmful.append(str(row.get("kind")) == "harmful")
            positions.append((x, y))
    harmful = np.array(is_harmful, dtype=bool)
    # A support vector machine needs points of two kinds.
    if not harmful.any() or harmful.all():
        return None
    points = np.array(positions)
    # The run records points and figures, not the line. Fitted again to the same points it is the same line.
    line = separate(points, harmful, 1.0)
    return picture(name, model.label, points, harmful, line, str(run.metrics.get("projection", "")))
