"""Sampling of the next token: one uniform number a token, so that a row's draw never depends on its neighbours."""

import hashlib

import torch
from torch import Tensor

from safereason.recipe.schema import Sampling


def uniforms(seed: int, conversation: int, number: int, length: int) -> Tensor:
    """The random numbers of one completion, [length] in [0, 1): the same on every machine and in every batch."""
    key = hashlib.sha256(f"{seed}/{conversation}/{number}".encode()).digest()
    # On the CPU, because generators of CUDA give other numbers.
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
    return torch.rand(length, generator=generator, dtype=torch.float64)


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """Draws one token a row.

    Args:
        logits: [B, V], any dtype.
        uniform: [B], in [0, 1).
        sampling: Penalty, then temperature, then top-k, then top-p: the order transformers and vLLM apply them in.
        seen: [B, V] bool, tokens of prompt and completion so far; needed for a repetition penalty.

    Returns:
        [B] token ids.
    """
    logits = logits.float()
    if seen is not None and sampling.repetition_penalty != 1.0:
        penalised = torch.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
        logits = torch.where(seen, penalised, logits)
    if sampling.temperature == 0.0:
        return logits.argmax(dim=-1)
    logits = logits / sampling.temperature
    # Sorting the vocabulary costs more than all the rest of a draw.
    if sampling.top_k == 0 and sampling.top_p == 1.0:
        return _invert(logits.softmax(dim=-1), uniform)
    ordered, order = logits.sort(dim=-1, descending=True)
    if sampling.top_k:
        ordered[:, sampling.top_k :] = float("-inf")
    probabilities = ordered.softmax(dim=-1)
    # A token stays while the mass before it is below top_p, so the likeliest one always does.
    probabilities = probabilities * (probabilities.cumsum(dim=-1) - probabilities < sampling.top_p)
    return order.gather(-1, _invert(probabilities, uniform)[:, None])[:, 0]


def _invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse of the cumulative distribution; the masses need not sum to 1."""
    # In fp32, rare tokens would vanish in the sum over a large vocabulary.
    cumulative = probabilities.double().cumsum(dim=-1)  # [B, V]
    point = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
    # `right` steps over tokens of zero mass; the clamp holds the one rounding case point == total.
    return torch.searchsorted(cumulative, point, right=True)[:, 0].clamp(max=probabilities.shape[-1] - 1)
