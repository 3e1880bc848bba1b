"""The counts in the plan of a training, and the hours that it may take: its rows, steps, sequences and tokens."""

from collections.abc import Sequence
from dataclasses import replace

from safereason.errors import InputError
from safereason.recipe.schema import Recipe
from safereason.stages import guard, rl, sft
from safereason.stages.base import Options, Outline
from safereason.training import duration, fit
from safereason.training.fit import Gpus

COUNTS = (
    "rows",
    "prompts",
    "rollouts",
    "pairs at most",
    "steps",
    "steps at most",
    "sequences",
    "tokens at most",
    "tokens generated at most",
)
"""Keys of a training's plan that count something."""


def planned_counts(recipe: Recipe, options: Options, key: str) -> Outline:
    """The numbers of steps, sequences and tokens in the plan of a training; `key` is its section's dotted key."""
    if key == "sft":
        plan = sft.sft_outline(recipe, options)
    elif key == "rl":
        plan = rl.rl_outline(recipe, options)
    else:
        # The sources of a guard's mix are not read: that may take minutes, or a download.
        plan = guard.training_outline(recipe, options, key, guard.row_counts(recipe, options))
    return {name: plan[name] for name in COUNTS if name in plan}


def planned_hours(recipe: Recipe, options: Options, keys: Sequence[str], gpus: Gpus) -> Outline:
    """The hours of trainings at most, one after the other, and the rate that they were reckoned with.

    It is empty where no rate of the GPUs is known, or the shape of the model is not.

    Args:
        recipe: The recipe.
        options: Options with the model to start from, where that is not the recipe's.
        keys: Dotted keys of the sections that are trained.
        gpus: The GPUs.
    """
    if options.model is not None:
        recipe = recipe.model_copy(update={"model": str(options.model)})
    hours = 0.0
    rate = None
    try:
        trainings, _ = fit.trainings(recipe, gpus)
        for training in trainings:
            if training.key in keys:
                rate = duration.rate_of(training.section, gpus)
                counts = planned_counts(recipe, replace(options, processes=gpus.count), training.key)
                hours += duration.hours(training, counts) or 0.0
    except InputError:
        # The rest of the plan says what is wrong.
        return {}
    if rate is None:
        return {}
    return {"hours at most": round(hours, 1), "at": str(rate)}
