"""What it costs a model to begin its answer with a target, for many prompts that begin alike, and the gradient of it.

Exact, and spared what need not be computed: the states of what prompts begin with are held and serve all of them,
prompts are grouped by where they depart from what is held, and only the hidden states that predict a token of the
target are projected onto the vocabulary. Where that is not known to be exact (a sliding window, a recurrent state),
nothing is held and whole prompts are computed, each alone where a batch would change them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from safereason.attacks.whitebox import grouping
from safereason.engines import architectures
from safereason.engines.states import accepted, holds_prefixes
from safereason.errors import StageFailed

CPU_TOKENS, GPU_TOKENS = 1024, 65_536
"""Tokens of a batch to begin with: on a CPU what keeps the states near it, on a GPU what may well be too much."""
CPU_OVERHEAD, GPU_OVERHEAD = 16, 512
"""What one more pass costs, in tokens: reading the weights and starting the kernels."""


@dataclass(frozen=True)
class Scored:
    """Losses of prompts."""

    values: Tensor
    """[N] fp32, on the CPU: the mean cross entropy in nats of the target's tokens, or their mellowmax."""
    matched: Tensor
    """[N] bool: whether greedy decoding writes the target."""


class TargetLoss:
    """The loss of one target on one model.

    Args:
        model: A causal language model of transformers.
        target: Its token ids, at least one.
        mellowmax: Parameter of the mellowmax that takes the mean's place; None leaves the mean.
    """

    def __init__(self, model: Any, target: Sequence[int], mellowmax: float | None = None) -> None:
        self.model = model
        self.target = list(target)
        self.mellowmax = mellowmax
        on_cpu = model.device.type == "cpu"
        most = CPU_TOKENS if on_cpu else GPU_TOKENS
        self._budget = most if architectures.is_batched(model) else 1
        self._overhead = CPU_OVERHEAD if on_cpu else GPU_OVERHEAD
        self._shares = holds_prefixes(model)
        self._keeps_logits = "logits_to_keep" in accepted(model)
        self._held: list[int] = []
        self._states: list[tuple[Tensor, Tensor]] = []  # of each layer: keys and values, [1, H, L, D]

    def hold(self, ids: Sequence[int]) -> None:
        """Computes the states of what prompts begin with, so far as they are not at hand."""
        known = grouping.common(self._held, ids)
        if not self._shares or known == len(ids):
            return
        with _evaluating(self.model), torch.no_grad():
            cache = self._cache(known, 1)
            rest = torch.tensor([list(ids[known:])], device=self.model.device)
            self.model(input_ids=rest, **self._options(cache, 1))
        self._keep(ids, cache)

    def losses(self, prompts: Sequence[Sequence[int]]) -> Scored:
        """The loss after each prompt, whatever their lengths.

        Raises:
            StageFailed: A single prompt does not fit in memory.
        """
        if len(prompts) > 1:
            beginning = min(grouping.common(prompts[0], prompt) for prompt in prompts[1:])
            self.hold(prompts[0][: min(beginning, min(map(len, prompts)) - 1)])
        # The last token of a prompt is always computed: it predicts the first of the target.
        shared = [min(grouping.common(self._held, prompt), len(prompt) - 1) for prompt in prompts]
        lengths = [len(prompt) + len(self.target) - 1 for prompt in prompts]
        values, matched = torch.empty(len(prompts)), torch.empty(len(prompts), dtype=torch.bool)
        with _evaluating(self.model), torch.inference_mode():
            for group in grouping.groups(shared, lengths, self._overhead):
                known = min(shared[i] for i in group)
                rest = [length - known for length in lengths]
                for members in grouping.batches(group, rest, self._budget):
                    values[members], matched[members] = self._fitting([prompts[i] for i in members], known)
        return Scored(values, matched)

    def plain(self, prompt: Sequence[int]) -> tuple[float, bool]:
        """Loss and match after one prompt, by one pass over all of it: nothing held, all logits."""
        ids = torch.tensor([[*prompt, *self.target]], device=self.model.device)
        with _evaluating(self.model), torch.inference_mode():
            logits = self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()  # [T, V]
            target = ids[0, len(prompt) :]
            loss = self._reduce(cross_entropy(logits, target, reduction="none"))
            return float(loss), bool((logits.argmax(-1) == target).all())

    def gradient(self, prompt: Sequence[int], span: slice) -> Tensor:
        """How the loss changes with the one-hot tokens of a span of the prompt, in one pass forward and back.

        The states it computes on the way are held, and serve prompts that differ in the span.

        Returns:
            [n, V] in fp32 on the model's device.
        """
        known = span.start if self._shares else 0
        self.hold(prompt[:known])
        ids = [*prompt, *self.target[:-1]]
        embedding = self.model.get_input_embeddings()
        with _evaluating(self.model), torch.enable_grad():
            vectors = embedding(torch.tensor(ids[known:], device=self.model.device)).detach()  # [L, D]
            edited = vectors[span.start - known : span.stop - known].clone().requires_grad_()  # [n, D]
            whole = torch.cat([vectors[: span.start - known], edited, vectors[span.stop - known :]])
            cache = self._cache(known, 1)
            output = self.model(inputs_embeds=whole[None], **self._options(cache, len(self.target)))
            logits = output.logits[0, -len(self.target) :].float()  # [T, V]
            target = torch.tensor(self.target, device=logits.device)
            loss = self._reduce(cross_entropy(logits, target, reduction="none"))
            (slope,) = torch.autograd.grad(loss, edited)
        if cache is not None:
            self._keep(ids, cache)
        # By the chain rule: a token's vector is its one-hot times the table.
        table: Tensor = embedding.weight.detach()  # [V, D]
        found: Tensor = (slope @ table.T).float() * float(getattr(embedding, "embed_scale", 1.0))
        return found

    def _options(self, cache: Any, keep: int) -> dict[str, Any]:
        """What a pass is given beside its tokens; `keep` are the last tokens whose logits are wanted."""
        held = {} if cache is None else {"past_key_values": cache}
        fewer = {"logits_to_keep": keep} if self._keeps_logits else {}
        return {"use_cache": cache is not None, **held, **fewer}

    def _keep(self, ids: Sequence[int], cache: Any) -> None:
        self._held = list(ids)
        self._states = [(layer.keys.detach(), layer.values.detach()) for layer in cache.layers]

    def _cache(self, known: int, rows: int) -> Any:
        """What is held of the first `known` tokens, for so many rows; None where nothing can be."""
        if not self._shares:
            return None
        cache = DynamicCache(config=self.model.config)
        layers: list[Any] = cache.layers
        for layer, (keys, values) in zip(layers, self._states if known else (), strict=bool(known)):
            layer.lazy_initialization(keys, values)
            layer.keys = keys[:, :, :known].expand(rows, -1, -1, -1)
            layer.values = values[:, :, :known].expand(rows, -1, -1, -1)
        return cache

    def _fitting(self, prompts: list[Sequence[int]], known: int) -> tuple[Tensor, Tensor]:
        """A batch, or its halves where it does not fit in memory."""
        try:
            return self._batch(prompts, known)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            if len(prompts) == 1:
                raise StageFailed("out of memory for a single prompt; shorten it, or use a smaller model") from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._budget = max(1, self._budget // 2)
        middle = len(prompts) // 2
        halves = [self._fitting(part, known) for part in (prompts[:middle], prompts[middle:])]
        return torch.cat([half[0] for half in halves]), torch.cat([half[1] for half in halves])

    def _batch(self, prompts: list[Sequence[int]], known: int) -> tuple[Tensor, Tensor]:
        """Loss and match [B] of prompts whose first `known` tokens are held."""
        rest = [[*prompt[known:], *self.target[:-1]] for prompt in prompts]
        width, steps = max(map(len, rest)), len(self.target)
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rest], device=self.model.device)
        keep = width - min(map(len, rest)) + steps  # the logits before the first target of any row, and all after
        logits = self.model(input_ids=ids, **self._options(self._cache(known, len(rest)), keep)).logits
        logits = logits[:, -keep:]  # [B, keep, V]
        if keep > steps:
            starts = torch.tensor([len(row) - steps - (width - keep) for row in rest], device=logits.device)
            places = starts[:, None] + torch.arange(steps, device=logits.device)  # [B, T]
            logits = logits[torch.arange(len(rest), device=logits.device)[:, None], places]
        flat = logits.flatten(0, 1).float()  # [B * T, V]
        target = torch.tensor(self.target, device=flat.device).repeat(len(rest))
        losses = cross_entropy(flat, target, reduction="none").view(len(rest), steps)
        likeliest = flat.gather(-1, target[:, None])[:, 0] == flat.amax(-1)
        return self._reduce(losses).cpu(), likeliest.view(len(rest), steps).all(-1).cpu()

    def _reduce(self, losses: Tensor) -> Tensor:
        """Losses of tokens [..., T] to the loss of the target [...]."""
        if self.mellowmax is None:
            return losses.mean(-1)
        count = torch.tensor(float(losses.shape[-1]), device=losses.device)
        return ((self.mellowmax * losses).logsumexp(-1) - count.log()) / self.mellowmax


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """The model without dropout, and as it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
