"""The model that a recipe's training led to, and the arithmetic it was trained in."""

from safereason.recipe.schema import Recipe
from safereason.runs.directory import finished_runs
from safereason.stages import rl, sft
from safereason.stages.base import Options, source_run


def model_of(recipe: Recipe, options: Options) -> str:
    """`options.model`, else the recipe's newest finished rl run, else its sft run.

    Raises:
        InputError: There is neither; the message says which command makes it.
    """
    if options.model:
        return options.model
    if finished_runs(options.root, "rl", recipe.name):
        expected = rl.identity_of(recipe, rl.start_model(recipe, options), options)
        return str(source_run("rl", recipe, options, expected))
    return str(source_run("sft", recipe, options, sft.identity_of(recipe, recipe.model)))


def precision_of(recipe: Recipe) -> str:
    """The arithmetic that the recipe's models were trained in."""
    section = recipe.rl or recipe.sft
    return section.precision if section else "fp32"
