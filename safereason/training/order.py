"""The order in which prompts are trained on."""

import math
from collections.abc import Sequence

from safereason.data.example import Example
from safereason.data.sampling import interleave, seeded_order


def epochs(examples: Sequence[Example], count: float, seed: int) -> list[Example]:
    """The prompts of all epochs in a row; each epoch has an order of its own, with kinds (or labels) spread evenly.

    So every step sees the mix's ratio of kinds, where a plain shuffle of 16 prompts may hold 5 harmful ones or 11. A
    part of an epoch is given whole; the trainer stops by steps.
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.label or example.kind, []).append(example)
    rows: list[Example] = []
    for epoch in range(math.ceil(count)):
        # Sorted, so that the order of the prompts does not depend on which kind comes first in the data.
        shuffled = [seeded_order(groups[kind], seed, f"epoch {epoch}") for kind in sorted(groups)]
        rows.extend(interleave(shuffled))
    return rows
