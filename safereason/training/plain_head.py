"""Log-probabilities row by row, for architectures that a batch or TRL's own head would change.

TRL takes them from a batch padded on the left (GRPO) or on the right (SFT, DPO), and projects the backbone's states
onto the vocabulary itself. Both are exact for `architectures.TRAINED` alone. A recurrent state may take padding in,
positions may be counted from the padding, and a head may do more than project. Here each row is run alone, without its
padding, through the model's own forward pass, and run again in the backward pass: one row is in memory at a time.
"""

import functools
from math import inf
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from safereason.engines import architectures
from safereason.engines.states import accepted
from safereason.training.model import Forward, without_adapters

IGNORED = -100
"""The label of a token that is not scored."""


class _RowFigures(NamedTuple):
    """Figures of one row's scored tokens, each [n], as TRL's head has them."""

    log_probs: Tensor
    entropy: Tensor
    log_sum_sq_probs: Tensor
    mean_logits: Tensor
    is_top1: Tensor
    aux_loss: Tensor | None
    """The load-balancing loss of a mixture of experts, a scalar."""


def install(model: PreTrainedModel, temperature: float = 1.0) -> None:
    """Replaces TRL's computation by the plain one, unless TRL's is known to be exact.

    Args:
        model: A causal language model, with or without peft adapters, that TRL has given its head.
        temperature: The divisor of the logits.
    """
    causal = without_adapters(model)
    if architectures.trains_in_batches(causal, 0) and architectures.reach(causal) == inf:
        return
    with_head = causal.forward

    @functools.wraps(type(causal).forward)  # TRL and generation look at the signature
    def forward(self: PreTrainedModel, *arguments: object, fused_lm_head: bool = False, **named: Any) -> object:
        if not fused_lm_head:
            return with_head(*arguments, **named)
        # Some rotary embeddings are exact up to a length alone, so that every batch is checked.
        if architectures.trains_in_batches(self, named["input_ids"].shape[1]):
            return with_head(*arguments, fused_lm_head=True, **named)
        return _score_rows(with_head, temperature, "logits_to_keep" in accepted(self), **named)

    causal.forward = MethodType(forward, causal)


def _score_rows(
    forward: Forward,
    temperature: float,
    keeps_logits: bool,
    *,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    output_router_logits: bool = False,
    **_: object,
) -> FusedCausalLMOutput:
    """The output of TRL's head, each figure [B, L - 1] and 0 where the next token is not scored."""
    scored = (labels[:, 1:] != IGNORED) & attention_mask[:, 1:].bool()  # [B, L - 1]
    options = {}
    if output_router_logits:
        options["output_router_logits"] = True
    rows: list[_RowFigures] = []
    for ids, kept, row_labels in zip(input_ids, attention_mask.bool(), labels, strict=True):
        row: _RowFigures = checkpoint(
            _row_figures,
            forward,
            ids[kept],
            row_labels[kept],
            temperature,
            keeps_logits,
            options,
            use_reentrant=False,
        )
        rows.append(row)

    def filled(values: list[Tensor]) -> Tensor:
        """[B, L - 1] from the values of each row's scored tokens."""
        return values[0].new_zeros(scored.shape).masked_scatter(scored, torch.cat(values))

    log_probs = filled([row.log_probs for row in rows])
    if num_items_in_batch is None:
        num_items_in_batch = scored.sum().clamp(min=1)
    aux_losses = [row.aux_loss for row in rows if row.aux_loss is not None]
    aux_loss = None
    if aux_losses:
        aux_loss = torch.stack(aux_losses).mean()
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / num_items_in_batch,
        log_probs=log_probs,
        entropy=filled([row.entropy for row in rows]),
        log_sum_sq_probs=filled([row.log_sum_sq_probs for row in rows]),
        mean_logits=filled([row.mean_logits for row in rows]),
        is_top1=filled([row.is_top1 for row in rows]),
        label_mask=labels[:, 1:] != IGNORED,
        aux_loss=aux_loss,
    )


def _row_figures(
    forward: Forward,
    ids: Tensor,
    labels: Tensor,
    temperature: float,
    keeps_logits: bool,
    options: dict[str, bool],
) -> _RowFigures:
    """The figures of one row of ids and labels, each [L]; all of it is run again in the backward pass."""
    positions = (labels[1:] != IGNORED).nonzero()[:, 0]  # [n], of the states that predict scored tokens
    # Logits before the first of them are the largest part of a long prompt's memory, so they are not made if possible.
    first = int(positions[0]) if len(positions) else len(ids) - 1
    keep = {"logits_to_keep": len(ids) - first} if keeps_logits else {}
    output = forward(input_ids=ids[None], use_cache=False, **keep, **options)
    logits = output.logits[0]  # [L, V], or its end
    logits = logits[positions - (len(ids) - len(logits))].float() / temperature  # [n, V]
    targets = labels[1:][positions]
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    with torch.no_grad():
        log_sum_sq_probs = (2 * logprobs).logsumexp(-1)
        mean_logits = logits.mean(-1)
        is_top1 = logits.argmax(-1) == targets
    chosen = logprobs.gather(-1, targets[:, None])[:, 0]
    return _RowFigures(chosen, entropy, log_sum_sq_probs, mean_logits, is_top1, getattr(output, "aux_loss", None))
