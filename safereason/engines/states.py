"""The cache of a model that is read token by token: keys and values, recurrent states, or nothing at all.

Rows of a batch share one cache where `architectures.BATCHED` says that this is exact. Any other architecture reads one
row at a time, with the cache that it makes itself; one whose cache is not exact, or that has none, reads its whole text
again for each token.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from safereason.engines import architectures
from safereason.engines.architectures import CausalModel

CARRIED = ("past_key_values", "cache_params", "state", "mems")
"""Names under which a model returns its cache, and takes it again."""

ModelCache: TypeAlias = dict[str, object]
"""A model's cache under the name of the argument that takes it; empty where it has none."""


def accepted(model: CausalModel) -> set[str]:
    """Names of the arguments of the model's forward pass."""
    causal = model
    # peft wraps the model in a forward pass that takes anything.
    if hasattr(model, "get_base_model"):
        causal = model.get_base_model()
    return set(inspect.signature(type(causal).forward).parameters)


@contextmanager
def evaluation_mode(model: CausalModel) -> Iterator[None]:
    """Context without dropout; the model is as it was afterwards, since a trainer may go on with it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def holds_prefixes(model: CausalModel) -> bool:
    """Whether several prompts can share the keys and values of their common beginning.

    A sliding window counts positions and a recurrent state takes padding in: only full attention can.
    """
    if not architectures.shares_prompts(model):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def empty_cache(model: CausalModel) -> ModelCache:
    """An empty cache under the name of the model's argument; nothing where only the model itself can make one."""
    if not architectures.is_batched(model):
        return {}
    name = "cache_params"
    if "past_key_values" in accepted(model):
        name = "past_key_values"
    return {name: DynamicCache(config=model.config)}


class States:
    """The cache of a batch of rows."""

    def __init__(self, model: CausalModel, longest: int) -> None:
        """Begins with an empty cache.

        Args:
            model: A causal language model.
            longest: Tokens of the longest row, once it has ended.
        """
        self._model = model
        self._takes = accepted(model)
        self._batched = architectures.is_batched(model, longest)
        self._has_cache = True
        self._kept: ModelCache = {}
        if self._batched:
            self._kept = empty_cache(model)
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
        seen = mask
        if "past_key_values" not in self._takes:
            seen = mask[:, -ids.shape[1] :]
        arguments: dict[str, object] = {"attention_mask": seen, "position_ids": positions, "logits_to_keep": 1}
        rereads = False
        if not self._batched:
            # The text is kept even while the cache is exact: beyond the model's reach it has to be read again.
            if self._text is None:
                self._text = ids
            else:
                self._text = torch.cat([self._text, ids], dim=1)
            rereads = not self._has_cache or architectures.rereads(self._model, self._text.shape[1])
            if rereads:
                ids = self._text
                arguments = {"logits_to_keep": 1}
                self._kept = {}
        # Architectures differ in what they take; one without `position_ids` counts them itself.
        accepted_arguments = {name: value for name, value in arguments.items() if name in self._takes}
        output = self._model(input_ids=ids, use_cache=not rereads, **accepted_arguments, **self._kept)
        if not self._batched and not rereads:
            self._kept = {name: output[name] for name in CARRIED if output.get(name) is not None}
            # A model that returned no cache has none to give at later tokens either.
            self._has_cache = bool(self._kept)
        logits: Tensor = output.logits[:, -1]
        return logits

    def select(self, rows: Tensor) -> None:
        """Goes on with these rows of the batch, in this order; one may come several times."""
        if self._batched:
            for cache in self._kept.values():
                assert isinstance(cache, DynamicCache)  # as `empty_cache` made it
                cache.reorder_cache(cast("torch.LongTensor", rows))
        elif rows.tolist() != [0]:
            raise ValueError(f"{type(self._model).__name__} reads one row at a time")
