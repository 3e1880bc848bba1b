"""What the commands that run a stage have in common: print its plan, or run it and print what it made."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from safereason.cli import output

if TYPE_CHECKING:
    from safereason.recipe.schema import Recipe
    from safereason.stages.base import Result


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


def print_steps(recipe: "Recipe", steps: Sequence[str], as_json: bool) -> None:
    """The resolved recipe, and what would be done with it."""
    from safereason.recipe.load import resolved, to_yaml

    if as_json:
        output.print_json({"recipe": resolved(recipe), "steps": list(steps)})
    else:
        print(to_yaml(recipe))
        print("would do:\n" + "\n".join(f"  {number}. {step}" for number, step in enumerate(steps, start=1)))


def carry_out(work: Callable[[], "Result"], as_json: bool) -> "Result":
    """Runs a stage and prints where its run is and what it measured."""
    with output.results_only():
        result = work()
    if as_json:
        output.print_json({"run": str(result.run), "metrics": result.metrics})
    else:
        metrics = dict(result.metrics)
        figures = metrics.pop("figures", [])
        output.print_mapping({"run": str(result.run), **metrics})
        if figures:
            output.print_figures(figures)
    return result
