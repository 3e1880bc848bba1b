"""Several recipes that differ in a few values, each through every stage, and one report over all.

They share a folder of runs, so that what does not depend on those values is done once: a teacher's traces, a guard that
judges, the evaluations of the base model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safereason.console import say
from safereason.recipe.schema import Recipe
from safereason.stages import pipeline, report
from safereason.stages.base import Options, Result


def shard(points: Mapping[str, Recipe], part: tuple[int, int]) -> dict[str, Recipe]:
    """The `part[0]`-th of `part[1]` parts of the points, from 1."""
    return dict(list(points.items())[part[0] - 1 :: part[1]])


def run(points: Mapping[str, Recipe], options: Options, title: str) -> Result:
    """Runs every point; what is finished already is skipped.

    Args:
        points: Recipes by what tells them apart.
        options: Where to write.
        title: Heading of the report over all.

    Returns:
        The report, with `report` (the page) and `changes`: by point, as `pipeline.run` has it.
    """
    done = _points(points, options, alone=False)
    runs = dict.fromkeys(path for result in done.values() for path in result.metrics["runs"].values())
    page = report.run([*map(Path, runs)], options, title)
    return Result(page.run, {"report": page.metrics["page"], "changes": _changes(done)})


def run_shard(points: Mapping[str, Recipe], options: Options) -> dict[str, Any]:
    """Runs some points beside other processes: without what they share, which `run` does afterwards.

    Returns:
        `changes`, as `run` has them.
    """
    return {"changes": _changes(_points(points, options, alone=True))}


def _points(points: Mapping[str, Recipe], options: Options, *, alone: bool) -> dict[str, Result]:
    done = {}
    for number, (label, recipe) in enumerate(points.items(), start=1):
        say(f"sweep {number}/{len(points)}: {label}")
        done[label] = pipeline.run(recipe, options, base=not alone)
    return done


def _changes(done: Mapping[str, Result]) -> dict[str, Any]:
    return {label: result.metrics["changes"] for label, result in done.items()}
