"""What the commands that run a stage have in common: print its plan, or run it and print what it made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from safereason import processes
from safereason.cli import launched, output
from safereason.console import say

if TYPE_CHECKING:
    from safereason.evals.bars import Bar
    from safereason.recipe.schema import Recipe
    from safereason.stages.base import Options, Result
    from safereason.stages.verl import Backend, Training
    from safereason.training.launch import Launch


def print_plan(recipe: "Recipe", plan: dict[str, Any], as_json: bool) -> None:
    """What a training stage would do, and where each value of the recipe comes from."""
    from safereason.recipe.load import leaves
    from safereason.recipe.provenance import sources

    origins = sources(recipe)
    values = [(key, value, origins[key]) for key, value in leaves(recipe)]
    if as_json:
        output.print_json({"plan": plan, "recipe": {key: {"value": v, "source": origin} for key, v, origin in values}})
    else:
        output.print_mapping(plan)
        print(f"\nrecipe {recipe.name}")
        output.print_table(("key", "value", "source"), [(key, output.short(v), origin) for key, v, origin in values])


class Stage(Protocol):
    """A module that trains."""

    def plan(self, recipe: "Recipe", options: "Options") -> dict[str, Any]:
        """What `run` would do."""

    def run(self, recipe: "Recipe", options: "Options") -> "Result":
        """Trains."""


def train(
    stage: Stage, recipe: "Recipe", options: "Options", launch: "Launch | None", dry_run: bool, as_json: bool
) -> None:
    """Trains, here or in the processes of a launch, or says what would be done."""
    if launch is not None:
        options = replace(options, processes=launch.processes)
    if dry_run:
        how = {"launch": launch.shown(launched.program())} if launch else {}
        print_plan(recipe, {**stage.plan(recipe, options), **how}, as_json)
    elif launch is not None:
        stage.plan(recipe, options)  # what cannot be shared out is said once, and before anything is started
        launched.start(launch)
    else:
        carry_out(lambda: stage.run(recipe, options), as_json)


def print_steps(recipe: "Recipe", steps: Sequence[str], as_json: bool) -> None:
    """The resolved recipe, and what would be done with it."""
    from safereason.recipe.load import resolved, to_yaml

    if as_json:
        output.print_json({"recipe": resolved(recipe), "steps": list(steps)})
    else:
        print(to_yaml(recipe))
        print("would do:\n" + "\n".join(f"  {number}. {step}" for number, step in enumerate(steps, start=1)))


def by_verl(
    training: "Training", recipe: "Recipe", options: "Options", backend: "Backend", dry_run: bool, as_json: bool
) -> None:
    """Has verl train, or says what it would be given."""
    from safereason.stages import verl

    if dry_run:
        print_plan(recipe, verl.plan(training, recipe, backend), as_json)
    else:
        carry_out(lambda: verl.run(training, recipe, options, backend), as_json)


def print_changes(changes: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """A table with a row a model and a column a figure."""
    by_model = {
        model: {f"{figure['name']} ({figure['eval']})": output.interval(figure) for figure in figures}
        for model, figures in changes.items()
    }
    columns = list(dict.fromkeys(column for figures in by_model.values() for column in figures))
    if columns:
        rows = [(model, *(figures.get(column, "-") for column in columns)) for model, figures in by_model.items()]
        output.print_table(("model", *columns), rows)


def print_result(result: "Result", as_json: bool) -> None:
    """Where a run is and what it measured."""
    if as_json:
        output.print_json({"run": str(result.run), "metrics": result.metrics})
        return
    metrics = dict(result.metrics)
    figures = metrics.pop("figures", [])
    output.print_mapping({"run": str(result.run), **metrics})
    if figures:
        output.print_figures(figures)


def carry_out(
    work: Callable[[], "Result"], as_json: bool, show: Callable[["Result", bool], None] = print_result
) -> "Result":
    """Runs a stage and shows what it came to; of a run that was there before, it says so."""
    with output.results_only():
        result = work()
    if not processes.is_main():
        return result
    if result.is_earlier:
        say(f"{result.run}: finished before, so that its result is shown; --overwrite makes it anew")
    show(result, as_json)
    return result


def hold(result: "Result", bars: "Sequence[Bar]", junit: Path | None) -> None:
    """Holds an evaluation's figures against bars: those met are said, the others raised; `junit` gets all of them.

    Raises:
        InputError: There is no such figure.
        BarNotMet: A bar is not met; every such one is told.
    """
    from safereason.evals.bars import check, matched

    if junit:
        from safereason.cli import junit as file

        file.write(junit, result.run, result.metrics, bars)
    for bar, figure in matched(result.metrics, bars):
        if bar.is_met_by(figure):
            say(f"bar met: {bar.told_of(figure)}")
    check(result.metrics, bars)
