"""Log-probabilities row by row, for architectures that a batch or TRL's own head would change.

TRL takes them from a batch padded on the left (GRPO) or on the right (SFT, DPO), and projects the backbone's states
onto the vocabulary itself. Both are exact for `architectures.TRAINED` alone. A recurrent state may take padding in,
positions may be counted from the padding, and a head may do more than project. Here each row is run alone, without its
padding, through the model's own forward pass, and run again in the backward pass: one row is in memory at a time.
"""

import functools
from math import inf
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from trl.trainer.utils import FusedCausalLMOutput

from safereason.engines import architectures
from safereason.engines.states import accepted

IGNORED = -100
"""The label of a token that is not scored."""


def install(model: Any, temperature: float = 1.0) -> None:
    """Puts the plain computation in the place of TRL's, where that is not known to be exact.

    Args:
        model: A causal language model, with or without peft adapters, that TRL has given its head.
        temperature: What logits are divided by.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if architectures.trains_in_batches(causal, 0) and architectures.reach(causal) == inf:
        return
    with_head = causal.forward

    @functools.wraps(type(causal).forward)  # TRL and generation look at the signature
    def forward(self: Any, *arguments: Any, fused_lm_head: bool = False, **named: Any) -> Any:
        if not fused_lm_head:
            return with_head(*arguments, **named)
        if architectures.trains_in_batches(self, named["input_ids"].shape[1]):
            return with_head(*arguments, fused_lm_head=True, **named)
        return _scored(with_head, temperature, "logits_to_keep" in accepted(self), **named)

    causal.forward = MethodType(forward, causal)


def _scored(
    forward: Any,
    temperature: float,
    keeps_logits: bool,
    *,
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    output_router_logits: bool = False,
    **_: Any,
) -> FusedCausalLMOutput:
    """What TRL's head gives, each [B, L - 1] and 0 where the next token is not scored."""
    scored = (labels[:, 1:] != IGNORED) & attention_mask[:, 1:].bool()  # [B, L - 1]
    options = {"output_router_logits": True} if output_router_logits else {}
    rows = []
    for ids, kept, wanted in zip(input_ids, attention_mask.bool(), labels, strict=True):
        row = (ids[kept], wanted[kept], temperature, keeps_logits, options)
        rows.append(checkpoint(_row, forward, *row, use_reentrant=False))
    log_probs, entropy, squares, means = (
        part[0].new_zeros(scored.shape).masked_scatter(scored, torch.cat(part))
        for part in zip(*(row[:4] for row in rows), strict=True)
    )
    is_top1 = torch.zeros_like(scored).masked_scatter(scored, torch.cat([row[4] for row in rows]))
    items = scored.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    losses = [row[5] for row in rows if row[5] is not None]  # of a mixture of experts, where it is asked for
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / items,
        log_probs=log_probs,
        entropy=entropy,
        log_sum_sq_probs=squares,
        mean_logits=means,
        is_top1=is_top1,
        label_mask=labels[:, 1:] != IGNORED,
        aux_loss=torch.stack(losses).mean() if losses else None,
    )


def _row(
    forward: Any, ids: Tensor, labels: Tensor, temperature: float, keeps_logits: bool, options: dict[str, Any]
) -> tuple[Tensor | None, ...]:
    """One row [L]; of each scored token: log-probability, entropy, log of the sum of p², mean logit, whether likeliest.

    The last part is the load-balancing loss, where there is one.
    """
    places = (labels[1:] != IGNORED).nonzero()[:, 0]
    first = int(places[0]) if len(places) else len(ids) - 1
    fewer = {"logits_to_keep": len(ids) - first} if keeps_logits else {}
    output = forward(input_ids=ids[None], use_cache=False, **fewer, **options)
    logits = output.logits[0]  # [L, V], or its end
    logits = logits[places - (len(ids) - len(logits))].float() / temperature  # [n, V]
    targets = labels[1:][places]
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    with torch.no_grad():
        squares, means, is_top1 = (2 * logprobs).logsumexp(-1), logits.mean(-1), logits.argmax(-1) == targets
    chosen = logprobs.gather(-1, targets[:, None])[:, 0]
    return chosen, entropy, squares, means, is_top1, getattr(output, "aux_loss", None)
