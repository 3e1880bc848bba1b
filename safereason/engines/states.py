"""What a model keeps of the tokens it has read: keys and values, recurrent states, or nothing at all.

Rows of a batch share one cache where `architectures.BATCHED` says that this is exact. Any other architecture reads one
row at a time, with the cache that it makes itself; one whose cache is not exact, or that has none, reads its whole text
again for each token.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from safereason.engines import architectures

CARRIED = ("past_key_values", "cache_params", "state", "mems")
"""Names under which a model returns what it keeps, and takes it again."""


def accepted(model: Any) -> set[str]:
    """Names of what the model's forward pass takes."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(type(causal).forward).parameters)


def holds_prefixes(model: Any) -> bool:
    """Whether the keys and values of what several prompts begin with may serve them all.

    A sliding window counts places and a recurrent state takes padding in, so that full attention alone will do.
    """
    if not architectures.shares_prompts(model):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def empty_cache(model: Any) -> dict[str, Any]:
    """An empty cache under the name that the model takes it by; nothing where only the model itself can make one."""
    if not architectures.is_batched(model):
        return {}
    name = "past_key_values" if "past_key_values" in accepted(model) else "cache_params"
    return {name: DynamicCache(config=model.config)}


class States:
    """What a model keeps of the rows of a batch."""

    def __init__(self, model: Any, longest: int) -> None:
        """Takes a causal language model that has read nothing, and how long the longest row may become."""
        self._model = model
        self._takes = accepted(model)
        self._batched = architectures.is_batched(model, longest)
        self._has_cache = True
        self._kept = empty_cache(model) if self._batched else {}
        self._text: Tensor | None = None  # [1, L]: all that a row alone has read

    def read(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Reads the next tokens of each row.

        Args:
            ids: [B, L].
            mask: [B, P + L], 1 at tokens that count, those read before first.
            positions: [B, L].

        Returns:
            The logits after the last token of each row, [B, V].
        """
        # Keys are kept of all tokens, and masked; a state has taken in what came before.
        seen = mask if "past_key_values" in self._takes else mask[:, -ids.shape[1] :]
        given: dict[str, Any] = {"attention_mask": seen, "position_ids": positions, "logits_to_keep": 1}
        rereads = False
        if not self._batched:
            self._text = ids if self._text is None else torch.cat([self._text, ids], dim=1)
            rereads = not self._has_cache or architectures.rereads(self._model, self._text.shape[1])
            if rereads:
                ids, given, self._kept = self._text, {"logits_to_keep": 1}, {}
        given = {name: value for name, value in given.items() if name in self._takes}
        output = self._model(input_ids=ids, use_cache=not rereads, **given, **self._kept)
        if not self._batched and not rereads:
            self._kept = {name: output[name] for name in CARRIED if output.get(name) is not None}
            self._has_cache = bool(self._kept)
        logits: Tensor = output.logits[:, -1]
        return logits

    def select(self, rows: Tensor) -> None:
        """Goes on with these rows of the batch, in this order; one may come several times."""
        if self._batched:
            for cache in self._kept.values():
                cache.reorder_cache(rows)
        elif rows.tolist() != [0]:
            raise ValueError(f"{type(self._model).__name__} reads one row at a time")
