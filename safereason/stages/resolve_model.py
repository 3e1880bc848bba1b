"""The newest trained model of a recipe."""

from safereason.engines.spec import ModelSpec
from safereason.recipe.schema import Recipe
from safereason.runs.directory import finished_runs
from safereason.stages import rl, sft
from safereason.stages.base import Options, base_model, run_model, source_run


def model_of(recipe: Recipe, options: Options) -> ModelSpec:
    """`options.model`, else the recipe's newest finished rl run, else its sft run.

    Raises:
        InputError: There is neither; the message says which command makes it.
    """
    if options.model:
        return options.model
    # The identity of the rl run can only be worked out where its start model is there.
    if finished_runs(options.root, "rl", recipe.name):
        expected = rl.rl_identity(recipe, rl.start_model(recipe, options), options)
        return run_model(source_run("rl", recipe, options, expected))
    return run_model(source_run("sft", recipe, options, sft.sft_identity(recipe, base_model(recipe))))
