"""Probe sampling: a small draft model selects the candidates that the target model scores (arXiv 2403.01251)."""

from collections.abc import Sequence
from math import isnan

import torch
from torch import Tensor


def choose_candidates(draft: Tensor, probed: Tensor, probe: Sequence[int], reduction: int) -> list[int]:
    """The candidates that the target model has yet to score: the fewer, the better both models agree.

    Args:
        draft: [N] the draft model's losses.
        probed: [P] the target model's losses of the probe set.
        probe: Indices of the probe set.
        reduction: R of the paper: full disagreement leaves 1/R of all, no correlation 1/(2R).
    """
    share = (1 - rank_correlation(draft[list(probe)], probed)) / 2
    size = max(1, min(len(draft), int(share * len(draft) / reduction)))
    # NaN would come first in the sort, though nothing is known of such a candidate.
    best_by_draft: list[int] = draft.nan_to_num(nan=float("inf")).argsort(stable=True)[:size].tolist()
    scored = set(probe)
    return [i for i in best_by_draft if i not in scored]


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation; 0 if one of the tensors [P] does not vary."""
    from scipy.stats import spearmanr

    # scipy warns about constant input and returns NaN for it.
    if len(first) < 2 or len({*first.tolist()}) < 2 or len({*second.tolist()}) < 2:
        return 0.0
    value = float(spearmanr(first.numpy(), second.numpy()).correlation)
    if isnan(value):
        return 0.0
    return value


def draw_probe_set(size: int, share: int, generator: torch.Generator) -> list[int]:
    """Indices of the random candidates that both models score.

    Args:
        size: Number of candidates.
        share: One candidate in this many is drawn, and at least two: one has no rank correlation.
        generator: Random numbers, on the CPU.
    """
    count = max(min(2, size), size // share)
    indices: list[int] = torch.randperm(size, generator=generator)[:count].tolist()
    return indices
