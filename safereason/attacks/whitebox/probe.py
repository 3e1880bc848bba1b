"""Probe sampling: a small draft model says which candidates the target need not score (arXiv 2403.01251)."""

from collections.abc import Callable, Sequence
from math import isnan

import torch
from torch import Tensor

from safereason.attacks.whitebox.slot import Suffix

Losses = Callable[[Sequence[Suffix]], Tensor]
"""[N] of suffixes."""


def chosen(draft: Tensor, probed: Tensor, probe: Sequence[int], reduction: int) -> list[int]:
    """The candidates that the target has yet to score: fewer, the better both models agree on the probe set.

    Args:
        draft: [N] the draft's losses.
        probed: [P] the target's losses of the probe set.
        probe: Its indices.
        reduction: R of the paper: full disagreement leaves 1/R of all, half of it 1/(2R).
    """
    share = (1 - agreement(draft[list(probe)], probed)) / 2
    size = max(1, min(len(draft), int(share * len(draft) / reduction)))
    by_draft: list[int] = draft.nan_to_num(nan=float("inf")).argsort(stable=True)[:size].tolist()
    return [i for i in by_draft if i not in set(probe)]


def agreement(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation; 0 where one of them does not vary."""
    from scipy.stats import spearmanr

    if len(first) < 2 or len({*first.tolist()}) < 2 or len({*second.tolist()}) < 2:
        return 0.0
    value = float(spearmanr(first.numpy(), second.numpy()).correlation)
    return 0.0 if isnan(value) else value


def probe_set(size: int, share: int, generator: torch.Generator) -> list[int]:
    """Indices of the random one in `share` candidates that both models score, at least two where there are two."""
    drawn: list[int] = torch.randperm(size, generator=generator)[: max(min(2, size), size // share)].tolist()
    return drawn
