"""The counts in the plan of a training: its rows, steps, sequences and tokens."""

from safereason.recipe.schema import Recipe
from safereason.stages import guard, rl, sft
from safereason.stages.base import Options, Outline

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
    elif key == "guard.sft":
        plan = guard.guard_outline(recipe, options)["sft"]
    else:
        plan = guard.guard_outline(recipe, options)["rl"]
    return {name: plan[name] for name in COUNTS if name in plan}
