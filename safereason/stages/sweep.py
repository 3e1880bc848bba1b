"""Sweeps: several recipes that differ in a few values, each through every stage, and one report over all.

They share a folder of runs. Steps that do not depend on those values are done once, such as a teacher's traces, a guard
that judges, and the evaluations of the base model.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from safereason.console import say
from safereason.recipe.schema import Recipe
from safereason.stages import pipeline, report
from safereason.stages.base import Metrics, Options, Result


def shard(points: Mapping[str, Recipe], part: tuple[int, int]) -> dict[str, Recipe]:
    """One part of the points; `part` is its number, from 1, and the number of parts."""
    number, count = part
    return dict(list(points.items())[number - 1 :: count])


def run_sweep(
    points: Mapping[str, Recipe],
    options: Options,
    title: str,
    starts: Mapping[str, pipeline.StartStep] = MappingProxyType({}),
) -> Result:
    """Runs every point; finished steps are skipped.

    Args:
        points: Recipes by their labels.
        options: Where to write.
        title: Heading of the report over all.
        starts: By label, how a point's steps are started in processes of their own; without it they run in this one.

    Returns:
        The report, with `report` (the page) and `changes`: by point, as `pipeline.run_pipeline` has it.
    """
    done = _run_points(points, options, starts, with_base=True)
    runs: dict[str, None] = {}
    for result in done.values():
        # Points share runs, and each is reported once.
        runs.update(dict.fromkeys(result.metrics["runs"].values()))
    page = report.write_report([Path(run) for run in runs], options, title)
    return Result(page.run, {"report": page.metrics["page"], "changes": _changes(done)})


def run_shard(
    points: Mapping[str, Recipe], options: Options, starts: Mapping[str, pipeline.StartStep] = MappingProxyType({})
) -> Metrics:
    """Runs some points beside other processes.

    The evaluations of the base model are left to `run_sweep`: two processes cannot write one run.

    Returns:
        `changes`, as `run_sweep` has them.
    """
    return {"changes": _changes(_run_points(points, options, starts, with_base=False))}


def _run_points(
    points: Mapping[str, Recipe], options: Options, starts: Mapping[str, pipeline.StartStep], *, with_base: bool
) -> dict[str, Result]:
    done = {}
    for number, (label, recipe) in enumerate(points.items(), start=1):
        # The recipe has the same name at every point, so the label says which one it is.
        say(f"sweep {number}/{len(points)}: {label}")
        done[label] = pipeline.run_pipeline(recipe, options, base=with_base, start=starts.get(label))
    return done


def _changes(done: Mapping[str, Result]) -> Metrics:
    return {label: result.metrics["changes"] for label, result in done.items()}
