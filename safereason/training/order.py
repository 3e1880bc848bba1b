"""The order in which prompts are trained on."""

import math
from collections.abc import Sequence

from safereason.data.draw import interleave, ordered
from safereason.data.example import Example


def epochs(examples: Sequence[Example], count: float, seed: int) -> list[Example]:
    """The prompts of every epoch in a row, each epoch in an order of its own, its kinds (or labels) spread evenly.

    So every step sees the mix's ratio of kinds, where a plain shuffle of 16 prompts may hold 5 harmful ones or 11. A
    part of an epoch is given whole; the trainer stops by steps.
    """
    kinds = sorted({example.label or example.kind for example in examples})
    groups = [[example for example in examples if (example.label or example.kind) == kind] for kind in kinds]
    return [
        example
        for epoch in range(math.ceil(count))
        for example in interleave([ordered(group, seed, f"epoch {epoch}") for group in groups])
    ]
