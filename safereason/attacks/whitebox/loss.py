"""The loss of a target text, with which a completion shall begin, after many similar prompts; and its gradient.

The loss is exact, and avoids work: the states of the prompts' common beginning are cached and serve all of them,
prompts are grouped by how much of the cache they share, and only the hidden states that predict a token of the target
text are projected onto the vocabulary. Where a cache is not known to be exact (a sliding window, a recurrent state),
nothing is cached and whole prompts are computed, each alone if a batch would change them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from safereason.attacks.whitebox import grouping
from safereason.engines import architectures
from safereason.engines.memory import halves_of, run_or_halve
from safereason.engines.states import accepted, evaluation_mode, holds_prefixes

CPU_TOKENS, GPU_TOKENS = 1024, 65_536
"""Initial number of tokens of a batch: on a CPU few, so that states stay in its cache; on a GPU possibly too many."""
CPU_OVERHEAD, GPU_OVERHEAD = 16, 512
"""Cost of one more forward pass, in tokens: reading the weights and starting the kernels."""


@dataclass(frozen=True)
class PromptLosses:
    """Losses of a target text after N prompts."""

    values: Tensor
    """[N] fp32, on the CPU: the mean cross entropy in nats of the target text's tokens, or their mellowmax."""
    matched: Tensor
    """[N] bool: whether greedy decoding writes the target text."""


class TargetLoss:
    """The loss of one target text on one model.

    Args:
        model: A causal language model of transformers.
        target_ids: The target text's token ids, at least one.
        mellowmax: Parameter of the mellowmax that replaces the mean; None keeps the mean.
    """

    def __init__(self, model: Any, target_ids: Sequence[int], mellowmax: float | None = None) -> None:
        self.model = model
        self.target_ids = list(target_ids)
        self.mellowmax = mellowmax
        if model.device.type == "cpu":
            self._budget = CPU_TOKENS
            self._overhead = CPU_OVERHEAD
        else:
            self._budget = GPU_TOKENS
            self._overhead = GPU_OVERHEAD
        if not architectures.is_batched(model):
            self._budget = 1  # every prompt is a batch of its own
        self._shares_states = holds_prefixes(model)
        self._keeps_logits = "logits_to_keep" in accepted(model)
        self._cached_ids: list[int] = []
        self._states: list[tuple[Tensor, Tensor]] = []  # keys and values of each layer, [1, H, L, D]

    def cache_prefix(self, ids: Sequence[int]) -> None:
        """Computes the states of the prompts' common beginning, as far as they are not cached."""
        known = grouping.common_prefix_length(self._cached_ids, ids)
        if not self._shares_states or known == len(ids):
            return
        with evaluation_mode(self.model), torch.no_grad():
            cache = self._open_cache(known, 1)
            rest = torch.tensor([list(ids[known:])], device=self.model.device)
            self.model(input_ids=rest, **self._forward_options(cache, 1))
        self._store_states(ids, cache)

    def losses(self, prompts: Sequence[Sequence[int]]) -> PromptLosses:
        """The losses after prompts of any lengths.

        Raises:
            StageFailed: A single prompt does not fit in memory.
        """
        if len(prompts) > 1:
            common = min(grouping.common_prefix_length(prompts[0], prompt) for prompt in prompts[1:])
            shortest = min(map(len, prompts))
            # Without the shortest prompt's last token, which is always computed.
            self.cache_prefix(prompts[0][: min(common, shortest - 1)])
        shared: list[int] = []
        lengths: list[int] = []
        for prompt in prompts:
            # The last token of a prompt is always computed: it predicts the first of the target text.
            shared.append(min(grouping.common_prefix_length(self._cached_ids, prompt), len(prompt) - 1))
            lengths.append(len(prompt) + len(self.target_ids) - 1)
        values = torch.empty(len(prompts))
        matched = torch.empty(len(prompts), dtype=torch.bool)
        with evaluation_mode(self.model), torch.inference_mode():
            for group in grouping.group_prompts(shared, lengths, self._overhead):
                # A batch shares one cache, so it starts at the shortest common beginning of its prompts.
                known = min(shared[i] for i in group)
                new_tokens = [length - known for length in lengths]
                for members in grouping.split_batches(group, new_tokens, self._budget):
                    batch = [prompts[i] for i in members]
                    values[members], matched[members] = self._compute_or_halve(batch, known)
        return PromptLosses(values, matched)

    def loss_without_cache(self, prompt: Sequence[int]) -> tuple[float, bool]:
        """Loss and match after one prompt, by one forward pass over all of it with all logits.

        It uses none of the shortcuts of `losses`, and so is an independent measurement.
        """
        ids = torch.tensor([[*prompt, *self.target_ids]], device=self.model.device)
        with evaluation_mode(self.model), torch.inference_mode():
            logits = self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()  # [T, V]
            target_ids = ids[0, len(prompt) :]
            loss = self._reduce(cross_entropy(logits, target_ids, reduction="none"))
            # Compared by argmax, the token that greedy decoding takes.
            return float(loss), bool((logits.argmax(-1) == target_ids).all())

    def gradient(self, prompt: Sequence[int], span: slice) -> Tensor:
        """The gradient of the loss at the one-hot tokens of a span of the prompt, by one pass forward and back.

        The states of this pass are cached, and serve prompts that differ in the span.

        Returns:
            [n, V] in fp32 on the model's device.
        """
        known = 0
        if self._shares_states:
            known = span.start
        self.cache_prefix(prompt[:known])
        ids = [*prompt, *self.target_ids[:-1]]
        embedding = self.model.get_input_embeddings()
        with evaluation_mode(self.model), torch.enable_grad():
            vectors = embedding(torch.tensor(ids[known:], device=self.model.device)).detach()  # [L, D]
            # Only the span's vectors take a gradient, so that the pass back ends there.
            edited = vectors[span.start - known : span.stop - known].clone().requires_grad_()  # [n, D]
            whole = torch.cat([vectors[: span.start - known], edited, vectors[span.stop - known :]])
            cache = self._open_cache(known, 1)
            output = self.model(inputs_embeds=whole[None], **self._forward_options(cache, len(self.target_ids)))
            logits = output.logits[0, -len(self.target_ids) :].float()  # [T, V]
            target_ids = torch.tensor(self.target_ids, device=logits.device)
            loss = self._reduce(cross_entropy(logits, target_ids, reduction="none"))
            (vector_gradient,) = torch.autograd.grad(loss, edited)  # [n, D]
        self._store_states(ids, cache)
        # By the chain rule: a token's vector is its one-hot times the embedding table, for some models scaled.
        table: Tensor = embedding.weight.detach()  # [V, D]
        scale = float(getattr(embedding, "embed_scale", 1.0))
        one_hot_gradient: Tensor = (vector_gradient @ table.T).float() * scale
        return one_hot_gradient

    def _forward_options(self, cache: DynamicCache | None, keep: int) -> dict[str, object]:
        """The arguments of a forward pass beside its tokens; logits are needed for the last `keep` tokens."""
        options: dict[str, object] = {"use_cache": cache is not None}
        if cache is not None:
            options["past_key_values"] = cache
        if self._keeps_logits:
            options["logits_to_keep"] = keep
        return options

    def _store_states(self, ids: Sequence[int], cache: DynamicCache | None) -> None:
        """Keeps the states of a forward pass over these ids, if it had a cache."""
        if cache is None:
            return
        self._cached_ids = list(ids)
        layers: list[Any] = cache.layers
        # Detached, so that the graph of the gradient's pass is freed.
        self._states = [(layer.keys.detach(), layer.values.detach()) for layer in layers]

    def _open_cache(self, known: int, rows: int) -> DynamicCache | None:
        """A cache with the states of the first `known` tokens, for this many rows; None if the model has no exact one.

        The rows are views of the same states, and a forward pass appends to copies of them.
        """
        if not self._shares_states:
            return None
        cache = DynamicCache(config=self.model.config)
        if not known:
            return cache
        layers: list[Any] = cache.layers
        for layer, (keys, values) in zip(layers, self._states, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys = keys[:, :, :known].expand(rows, -1, -1, -1)
            layer.values = values[:, :, :known].expand(rows, -1, -1, -1)
        return cache

    def _compute_or_halve(self, prompts: list[Sequence[int]], known: int) -> tuple[Tensor, Tensor]:
        """Loss and match [B] of a batch. One that does not fit in memory is halved, and later batches are smaller.

        Raises:
            StageFailed: A single prompt does not fit.
        """
        losses: list[Tensor] = []
        matched: list[Tensor] = []

        def compute(batch: list[Sequence[int]]) -> None:
            batch_losses, batch_matched = self._compute(batch, known)
            losses.append(batch_losses)
            matched.append(batch_matched)

        run_or_halve(
            prompts, compute, self._halve, "out of memory for a single prompt; shorten it, or use a smaller model"
        )
        return torch.cat(losses), torch.cat(matched)

    def _halve(self, prompts: list[Sequence[int]]) -> list[list[Sequence[int]]]:
        """The halves of a batch that does not fit in memory; later batches are smaller, too."""
        self._budget = max(1, self._budget // 2)
        return halves_of(prompts)

    def _compute(self, prompts: list[Sequence[int]], known: int) -> tuple[Tensor, Tensor]:
        """Loss and match [B] of prompts whose first `known` tokens are cached."""
        # The target text's last token predicts nothing that is scored.
        rows = [[*prompt[known:], *self.target_ids[:-1]] for prompt in prompts]
        steps = len(self.target_ids)
        width = max(map(len, rows))
        # Padded on the right, where causal attention keeps the padding out of all logits that are used.
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=self.model.device)
        keep = width - min(map(len, rows)) + steps  # from the shortest row's first logit of the target text on
        options = self._forward_options(self._open_cache(known, len(rows)), keep)
        logits = self.model(input_ids=ids, **options).logits
        logits = logits[:, -keep:]  # [B, keep, V]
        if keep > steps:
            starts = torch.tensor([len(row) - steps - (width - keep) for row in rows], device=logits.device)
            positions = starts[:, None] + torch.arange(steps, device=logits.device)  # [B, T]
            logits = logits[torch.arange(len(rows), device=logits.device)[:, None], positions]
        flat = logits.flatten(0, 1).float()  # [B * T, V]
        target_ids = torch.tensor(self.target_ids, device=flat.device).repeat(len(rows))
        losses = cross_entropy(flat, target_ids, reduction="none").view(len(rows), steps)
        # Compared with the maximum, so that a tie counts as a match.
        is_likeliest = flat.gather(-1, target_ids[:, None])[:, 0] == flat.amax(-1)
        return self._reduce(losses).cpu(), is_likeliest.view(len(rows), steps).all(-1).cpu()

    def _reduce(self, losses: Tensor) -> Tensor:
        """The loss of the target text [...] from the losses of its tokens [..., T]."""
        if self.mellowmax is None:
            return losses.mean(-1)
        count = torch.tensor(float(losses.shape[-1]), device=losses.device)
        return ((self.mellowmax * losses).logsumexp(-1) - count.log()) / self.mellowmax
