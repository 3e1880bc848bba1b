"""Where harmful and harmless prompts lie inside a model: the picture of a run of `eval separation`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from safereason.report import plots
from safereason.report.plots import Cloud, Plot
from safereason.report.read import Model, Run, number, of_stage

if TYPE_CHECKING:
    from safereason.evals.separation import Boundary, Points, Truths


def separations(runs: Sequence[Run], models: Sequence[Model]) -> list[Plot]:
    """A picture for each model that was looked into, in the models' order."""
    by_subject = {run.subject: run for run in of_stage(runs, "eval/separation")}
    return [
        plot
        for place, model in enumerate(models)
        if model.subject in by_subject
        for plot in _of_run(f"separation-{place + 1}", model, by_subject[model.subject])
    ]


def picture(name: str, title: str, points: "Points", harmful: "Truths", line: "Boundary", projection: str) -> Plot:
    """Points [N, 2], which of them [N] are harmful, and the line between them, drawn with C = 1.0."""
    kinds = {"harmful": harmful, "harmless": ~harmful}
    clouds = [Cloud(f"{kind} ({mask.sum()})", points[mask].tolist()) for kind, mask in kinds.items()]
    margin = "none" if line.margin is None else f"{line.margin:.2f}"
    caption = f"Final layer, last token of the prompt, {projection.upper()}; C = 1.0, margin {margin}."
    return plots.plane(name, title, clouds, (*line.w, line.b), caption)


def _of_run(name: str, model: Model, run: Run) -> list[Plot]:
    import numpy as np

    from safereason.evals.separation import separate

    rows = [(str(row.get("kind")), number(row.get("x")), number(row.get("y"))) for row in run.records("points")]
    placed = [(kind == "harmful", (x, y)) for kind, x, y in rows if x is not None and y is not None]
    harmful = np.array([is_harmful for is_harmful, _ in placed], dtype=bool)
    if not harmful.any() or harmful.all():
        return []
    points = np.array([point for _, point in placed])
    line = separate(points, harmful, 1.0)
    return [picture(name, model.label, points, harmful, line, str(run.metrics.get("projection", "")))]
