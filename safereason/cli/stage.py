"""The part that all commands of stages share: print the stage's plan, or run it and print its result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from safereason import processes
from safereason.cli import launched, output
from safereason.console import say

if TYPE_CHECKING:
    from safereason.evals.bars import Bar
    from safereason.recipe.schema import Recipe
    from safereason.runs.records import Record
    from safereason.stages.base import Options, Result
    from safereason.stages.verl import VerlBackend, VerlTraining
    from safereason.training.fit import Gpus
    from safereason.training.layout import Layout


def print_plan(recipe: "Recipe", plan: "Record", as_json: bool) -> None:
    """Prints the outline of a training, and each value of the recipe with its source."""
    from safereason.recipe.load import leaves
    from safereason.recipe.provenance import sources

    origins = sources(recipe)
    document: dict[str, dict[str, object]] = {}
    rows: list[tuple[str, str, str]] = []
    for key, value in leaves(recipe):
        document[key] = {"value": value, "source": origins[key]}
        rows.append((key, output.short(value), origins[key]))
    if as_json:
        output.print_json({"plan": plan, "recipe": document})
    else:
        output.print_mapping(plan)
        print(f"\nrecipe {recipe.name}")
        output.print_table(("key", "value", "source"), rows)


def train(
    train_stage: Callable[["Recipe", "Options"], "Result"],
    plan_stage: Callable[["Recipe", "Options"], "Record"],
    recipe: "Recipe",
    options: "Options",
    layout: "Layout",
    dry_run: bool,
    as_json: bool,
) -> None:
    """Runs a training, in this process or in those of its layout; on a dry run, prints its plan instead.

    Args:
        train_stage: The stage's training, such as `stages.sft.train_sft`.
        plan_stage: The outline of that training, for a dry run.
        recipe: The recipe.
        options: Where the stage writes, and what it starts from.
        layout: The processes to train in.
        dry_run: Whether to print the plan only.
        as_json: Whether to print JSON.
    """
    options = replace(options, processes=layout.processes)
    launch = layout.launch
    if dry_run:
        plan = {**plan_stage(recipe, options), **layout.outline(), **_hours(recipe, options, layout)}
        if launch is not None:
            plan["launch"] = launch.shown(launched.program())
        print_plan(recipe, plan, as_json)
        return
    if layout.reason:
        say(f"launch: {layout.reason}")
    if launch is not None:
        # Planning fails where the batch cannot be shared out. Without it, every process would print that error, and
        # only after it had started.
        plan_stage(recipe, options)
        launched.start(launch)
        return
    launched.train_on_one_device()
    run_and_print(lambda: train_stage(recipe, options), as_json)


def _hours(recipe: "Recipe", options: "Options", layout: "Layout") -> "Record":
    """The hours of the trainings of a layout, for a plan; empty without GPUs."""
    from safereason.stages.plan_counts import planned_hours

    if layout.gpus is None:
        return {}
    return planned_hours(recipe, options, layout.keys, replace(layout.gpus, count=layout.processes))


def add_hours(recipe: "Recipe", options: "Options", layouts: "Sequence[Record]", gpus: "Gpus | None") -> None:
    """Adds the hours of the trainings to the rows of `steps.planned_layouts`."""
    from safereason.stages import pipeline
    from safereason.stages.plan_counts import planned_hours

    if gpus is None or not layouts:
        return
    for row, (step_recipe, step) in zip(layouts, pipeline.steps_with_model(recipe), strict=True):
        if step.key is not None:
            row |= planned_hours(step_recipe, options, (step.key,), replace(gpus, count=row["processes"]))


def print_hours(layouts: "Sequence[Record]") -> None:
    """Prints the hours that `add_hours` added."""
    rows = [(row["step"], row["hours at most"], row["at"]) for row in layouts if "at" in row]
    if rows:
        print()
        output.print_table(("step", "hours at most", "at"), rows)


def print_steps(recipe: "Recipe", steps: Sequence[str], as_json: bool, placements: "Sequence[Record]" = ()) -> None:
    """Prints the resolved recipe, a numbered list of steps, and where models lie on GPUs, for a dry run.

    Args:
        recipe: The recipe.
        steps: The steps, a sentence each.
        as_json: Whether to print JSON.
        placements: Rows of placements, from `Placement.rows`; none where no GPU is planned with.
    """
    from safereason.recipe.load import resolved, to_yaml

    if as_json:
        document: Record = {"recipe": resolved(recipe), "steps": list(steps)}
        if placements:
            document["placement"] = list(placements)
        output.print_json(document)
        return
    print(to_yaml(recipe))
    print("would do:")
    for number, step in enumerate(steps, start=1):
        print(f"  {number}. {step}")
    print_placements(placements)


def print_placements(placements: "Sequence[Record]") -> None:
    """Prints which models lie on which GPUs; nothing without placements."""
    if placements:
        print()
        output.print_table(list(placements[0]), [list(row.values()) for row in placements])


def train_with_verl(
    training: "VerlTraining", recipe: "Recipe", options: "Options", backend: "VerlBackend", dry_run: bool, as_json: bool
) -> None:
    """Exports a training for verl, or takes a trained one back; on a dry run, prints its plan instead."""
    from safereason.stages import verl

    if dry_run:
        print_plan(recipe, verl.verl_outline(training, recipe, backend), as_json)
    else:
        run_and_print(lambda: verl.export_verl(training, recipe, options, backend), as_json)


def print_changes(changes: Mapping[str, Sequence["Record"]]) -> None:
    """Prints a table with one row per model and one column per figure; a figure that a model lacks is a dash."""
    cells: dict[str, dict[str, str]] = {}
    columns: list[str] = []
    for model, figures in changes.items():
        cells[model] = {}
        for figure in figures:
            column = f"{figure['name']} ({figure['eval']})"
            cells[model][column] = output.interval(figure)
            # Models may have different figures: the base model, for one, has none of a reward.
            if column not in columns:
                columns.append(column)
    if columns:
        rows = [(model, *(row.get(column, "-") for column in columns)) for model, row in cells.items()]
        output.print_table(("model", *columns), rows)


def print_result(result: "Result", as_json: bool) -> None:
    """Prints a run's folder and its metrics."""
    if as_json:
        output.print_json({"run": str(result.run), "metrics": result.metrics})
        return
    metrics = dict(result.metrics)
    # Figures have intervals and counts, for which they need a table of their own.
    figures = metrics.pop("figures", [])
    output.print_mapping({"run": str(result.run), **metrics})
    if figures:
        output.print_figures(figures)


def run_and_print(
    work: Callable[[], "Result"], as_json: bool, show: Callable[["Result", bool], None] = print_result
) -> "Result":
    """The result of a stage, printed; a note on stderr tells of a run that an earlier command finished."""
    with output.results_only():
        result = work()
    # Every process of a training comes here with the same result; the first one prints it.
    if not processes.is_main():
        return result
    if result.is_earlier:
        say(f"{result.run}: finished before, so that its result is shown; --overwrite makes it anew")
    show(result, as_json)
    return result


def check_bars(result: "Result", bars: "Sequence[Bar]", junit: Path | None) -> None:
    """Compares an evaluation's figures with bars: it prints the bars that are met and raises on the others.

    Args:
        result: The result of the evaluation.
        bars: The values that figures have to reach, or may not pass.
        junit: A file for all bars and figures as JUnit XML; None writes none.

    Raises:
        InputError: A bar is set for a figure that the evaluation does not have.
        BarNotMet: At least one bar is not met; the message names all of these.
    """
    from safereason.evals.bars import match_bars, refuse_unmet_bars

    # The file is written first: CI shows it for a failed job, too.
    if junit:
        from safereason.cli.junit import write_junit

        write_junit(junit, result.run, result.metrics, bars)
    # A bar that is met is worth a line: it shows in the log that the bar was there.
    for bar, figure in match_bars(result.metrics, bars):
        if bar.is_met_by(figure):
            say(f"bar met: {bar.result_for(figure)}")
    refuse_unmet_bars(result.metrics, bars)
