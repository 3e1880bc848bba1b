"""Safety against compliance: our models in the plane of the paper's plots, and the paper's beside them."""

from collections.abc import Iterable, Sequence
from itertools import product

import yaml

from safereason.evals.metrics import Figure
from safereason.evals.paper import TARS_FIGURE_2B, TARS_FIGURE_3, Point, Tradeoff
from safereason.report import plots
from safereason.report.plots import Mark, Path, Plot
from safereason.report.read import Model, Run, of_stage
from safereason.report.tables import Headline, evaluation_title

PLANES = {"compliance_safe": TARS_FIGURE_3, "compliance": TARS_FIGURE_2B}
"""What is plotted against HarmBench's DSR, and the paper's plot of it."""


def tradeoffs(table: Headline, runs: Sequence[Run]) -> list[Plot]:
    """Each plane that a model has both figures for, ours and then the paper's; one of ours for each pair of judges."""
    drawn = []
    for name, theirs in PLANES.items():
        ups = [place for place, c in enumerate(table.columns) if (c.evaluation, c.name) == ("harmbench", "dsr")]
        acrosses = [place for place, c in enumerate(table.columns) if (c.evaluation, c.name) == (theirs.benign, name)]
        stem = "tradeoff" if theirs is TARS_FIGURE_3 else f"tradeoff-{theirs.benign}"
        ours: list[Plot] = []
        for plane in product(ups, acrosses):
            ours += _ours(table, plane, runs, f"{stem}-{len(ours) + 1}" if ours else stem)
        drawn += [*ours, _theirs(theirs, f"{stem}-paper")] if ours else []
    return drawn


def _ours(table: Headline, plane: tuple[int, int], runs: Sequence[Run], name: str) -> list[Plot]:
    up, across = (table.columns[place] for place in plane)
    placed = [
        (model, Mark(_label(_ratio(model, runs)), x.value, y.value, _interval(x), _interval(y)))
        for model, cells in table.rows
        if not model.variant  # measured otherwise than the others, and so not comparable with them
        for y, x in [(cells[plane[0]], cells[plane[1]])]
        if x and y and x.value is not None and y.value is not None
    ]
    if not placed:
        return []
    title = f"These models, on {evaluation_title(across.evaluation)}"
    judges = " and ".join(dict.fromkeys((up.judge, across.judge)))
    caption = f"DSR on HarmBench by {judges}. Bars are 95 % intervals. Up and to the right is better."
    if any(mark.label for _, mark in placed):
        caption += " Numbers are λ."
    return [plots.tradeoff(name, title, list(_paths(placed, runs)), caption)]


def _paths(placed: Sequence[tuple[Model, Mark]], runs: Sequence[Run]) -> Iterable[Path]:
    """Models whose recipes differ in λ alone are one line; each other one stands by itself."""
    families: dict[str, list[tuple[Model, Mark]]] = {}
    for model, mark in placed:
        families.setdefault(_family(model, runs), []).append((model, mark))
    roles = [members[0][0].role for members in families.values()]
    for members in families.values():
        model = members[0][0]
        marks = sorted((mark for _, mark in members), key=lambda mark: mark.label)
        several = f"{model.role} · {model.family}" if len(members) > 1 else model.label
        label = model.role if roles.count(model.role) == 1 else several
        yield Path(label, tuple(marks))


def _family(model: Model, runs: Sequence[Run]) -> str:
    run = _maker(model, runs)
    if run is None or _ratio(model, runs) is None:
        return model.spec
    aside = ("name", "data", "provenance")  # a sweep overrides some of its points alone
    without = {key: value for key, value in run.recipe_values.items() if key not in aside}
    data = {key: value for key, value in run.recipe_values["data"].items() if key != "harmful_ratio"}
    return f"{model.role} {yaml.safe_dump({**without, 'data': data})}"


def _ratio(model: Model, runs: Sequence[Run]) -> float | None:
    run = _maker(model, runs)
    return run.harmful_ratio if run else None


def _maker(model: Model, runs: Sequence[Run]) -> Run | None:
    """The run that made a model or, where it is not at hand, one by the same recipe that measured it."""
    made = next((run for run in runs if run.name == model.spec), None)
    if made or model.role in ("Base", "Other"):
        return made
    return next((run for run in of_stage(runs, "eval") if run.model == model.spec and run.recipe == model.family), None)


def _label(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:g}"


def _interval(figure: Figure) -> tuple[float, float] | None:
    return None if figure.low is None or figure.high is None else (figure.low, figure.high)


def _theirs(theirs: Tradeoff, name: str) -> Plot:
    paths = [
        Path(series, tuple(Mark(_of_tars(series, point), point.compliance, point.dsr) for point in points))
        for series, points in theirs.series.items()
    ]
    caption = (
        f"HarmBench under four attacks, and {evaluation_title(theirs.benign)}: for the shape of the trade-off, not "
        f"comparable with ours in absolute terms; other axes. Numbers are λ. {theirs.source}, ± {theirs.tolerance}."
    )
    least = min(min(point.dsr, point.compliance) for points in theirs.series.values() for point in points)
    return plots.tradeoff(name, "The paper’s models", paths, caption, low=0.05 * (least // 0.05))


def _of_tars(series: str, point: Point) -> str:
    return f"{point.harmful_ratio:g}" if series == "TARS-1.5B" and point.harmful_ratio is not None else ""
