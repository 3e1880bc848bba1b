"""The steps of `run` and `sweep` on GPUs: the layout of each, and a process of its own for each."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safereason import processes
from safereason.cli import child, launched, output, stage
from safereason.console import say
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.recipe.schema import Recipe
    from safereason.runs.records import Record
    from safereason.stages.base import Options
    from safereason.stages.pipeline import StartStep, Step
    from safereason.training.fit import Gpus
    from safereason.training.layout import Layout


def words_of(
    recipe: str, overrides: Sequence[str], root: Path, seed: int | None, limit: int | None, model: str | None = None
) -> list[str]:
    """The arguments of `run` for a recipe as it was typed."""
    words = ["run", "--recipe", recipe, *overrides]
    if model is not None:
        words += ["--model", model]
    if seed is not None:
        words += ["--seed", str(seed)]
    if limit is not None:
        words += ["--limit", str(limit)]
    return [*words, "--root", str(root)]


def starter(
    words: Sequence[str], recipe: "Recipe", options: "Options", launch_option: str, gpus: "Gpus | None"
) -> "StartStep | None":
    """What runs each step that opens a model in a process of its own; None where all steps run in this process.

    Without a GPU they do: there is no memory of it to be given back.

    Args:
        words: The arguments of `run` for the recipe, without `--launch` and `--overwrite`.
        recipe: The recipe.
        options: Where to write.
        launch_option: The value of `--launch`.
        gpus: The GPUs of this machine; None without any.

    Raises:
        InputError: `--launch` is wrong, or a training that is left to do does not fit the GPUs or cannot be shared out.
    """
    from safereason.training import launch
    from safereason.training.layout import choose_layout

    if processes.is_launched() or (gpus is None and launch_option in (launch.AUTO, launch.NONE)):
        return None
    layouts = _layouts_of_trainings(recipe, options, launch_option, gpus)
    root = str(options.root)

    def start(step_recipe: "Recipe", step: "Step") -> None:
        # A guard that judges is trained by the recipe of its own, without what was typed for this one.
        arguments = list(words)
        if step_recipe is not recipe:
            arguments = ["run", "--recipe", step_recipe.reference, "--root", root]
        child_option = launch.NONE
        if step.key is not None:
            layout = layouts.get((step_recipe.name, step.name))
            if layout is None:
                layout = choose_layout(launch_option, step_recipe, (step.key,), gpus)
            if layout.reason:
                say(f"launch: {layout.reason}")
            child_option = layout.launch_option
        arguments += ["--step", step.name, "--launch", child_option]
        if options.on_existing == "overwrite":
            arguments.append("--overwrite")
        if logging.getLogger("safereason").isEnabledFor(logging.DEBUG):
            arguments.append("--verbose")
        child.run(arguments)

    return start


def run_one(recipe: "Recipe", options: "Options", name: str, launch_option: str, as_json: bool) -> None:
    """Runs one step of a recipe, a training in the processes of its layout, and prints its result.

    Raises:
        InputError: There is no such step, its model is not there yet, or `--launch` is wrong.
    """
    from safereason.stages import pipeline
    from safereason.stages.plan_counts import planned_counts
    from safereason.training import launch

    step = pipeline.find_step(recipe, name)
    if step.key is None:
        if launch_option not in (launch.AUTO, launch.NONE):
            raise InputError(f"--launch {launch_option}: the step {name} trains nothing; leave --launch out")
        stage.run_and_print(lambda: pipeline.run_step(recipe, options, step), as_json)
        return
    key = step.key
    stage.train(
        lambda chosen, where: pipeline.run_step(chosen, where, step),
        lambda chosen, where: planned_counts(chosen, where, key),
        recipe,
        options,
        launched.choose(launch_option, None, recipe, options, (key,)),
        dry_run=False,
        as_json=as_json,
    )


def planned_layouts(recipe: "Recipe", launch_option: str, gpus: "Gpus | None") -> "list[Record]":
    """The layout of each step that opens a model, for a dry run; empty where all steps run in one process.

    Raises:
        InputError: `--launch` is wrong, or a training does not fit the GPUs or cannot be shared out.
    """
    from safereason.stages import pipeline
    from safereason.training.layout import ONE, choose_layout

    rows: list[Record] = []
    is_in_processes = gpus is not None
    for step_recipe, step in pipeline.steps_with_model(recipe):
        name = step.name
        if step_recipe is not recipe:
            name = f"{name} of {step_recipe.name}"
        outline: dict[str, object] = {"processes": 1, "layout": ONE}
        if step.key is not None:
            layout = choose_layout(launch_option, step_recipe, (step.key,), gpus)
            is_in_processes = is_in_processes or layout.launch is not None
            outline |= layout.outline()
        rows.append({"step": name, **outline, "engine": step.engine})
    if not is_in_processes:
        return []
    return rows


def add_shards(recipe: "Recipe", layouts: "Sequence[Record]", placements: "Sequence[Record]") -> None:
    """Puts the shards of evaluations into the rows of `planned_layouts`; `placements` are those of the pipeline."""
    from safereason.stages import pipeline

    if not layouts:
        return
    completions = {row["work"]: row for row in placements}
    for row, (_, step) in zip(layouts, pipeline.steps_with_model(recipe), strict=True):
        placed = completions.get(f"{step.evaluation}: completions")
        if placed is not None:
            row |= {"processes": placed["shards"], "layout": "shards", "engine": placed["engine"]}


def print_layouts(rows: "Sequence[Record]", gpus: "Gpus | None") -> None:
    """Prints the rows of `planned_layouts` as a table."""
    if not rows:
        return
    if gpus is not None:
        print(f"\non {gpus.count} x {gpus.name}:")
    columns = ["step", "processes", "layout", "GiB a GPU", "of", "engine"]
    if gpus is None:
        columns = ["step", "processes", "layout", "engine"]
    output.print_table(columns, [[row.get(column) for column in columns] for row in rows])


def _layouts_of_trainings(
    recipe: "Recipe", options: "Options", launch_option: str, gpus: "Gpus | None"
) -> "dict[tuple[str, str], Layout]":
    """The layouts of the trainings that are left to do, by the names of recipe and step.

    Raises:
        InputError: `--launch` is wrong, or a training does not fit the GPUs or cannot be shared out.
    """
    from safereason.stages import pipeline
    from safereason.training.layout import choose_layout

    layouts: dict[tuple[str, str], Layout] = {}
    for step_recipe, step in pipeline.unfinished_trainings(recipe, options):
        assert step.key is not None
        layouts[step_recipe.name, step.name] = choose_layout(launch_option, step_recipe, (step.key,), gpus)
    return layouts
