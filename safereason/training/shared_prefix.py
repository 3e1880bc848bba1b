"""Log-probabilities of a group's rollouts with their prompt computed once.

GRPO scores G completions of the same prompt. Row by row the prompt is run G times, forward and backward; here one row
holds the prompt followed by all of its completions, and the attention mask keeps the completions apart:

    row:        p1 p2 .. p(n-1) | pn a1 a2 .. | pn b1 b2 .. | ...
    attends to: itself, causal  | prompt + a  | prompt + b  |

Each completion starts with its own copy of the last prompt token, whose hidden state predicts its first token. The
result equals the plain computation up to rounding: every token sees the same tokens at the same positions.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 1024
"""Tokens projected onto the vocabulary at a time; their logits are recomputed in the backward pass."""


def is_supported(model: Any) -> bool:
    """Whether the model takes a four-dimensional attention mask and its logits are a plain projection."""
    config = model.config.get_text_config()
    scaled = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
    layers = getattr(config, "layer_types", None)
    windowed = set(layers) != {"full_attention"} if layers else getattr(config, "sliding_window", None) is not None
    # An adapter on the head has more to it than the head's weight.
    plain = type(_causal(model).get_output_embeddings()) is torch.nn.Linear and all(
        getattr(config, name, None) is None for name in scaled
    )
    return plain and not windowed and config._attn_implementation in ("sdpa", "eager")


def _causal(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def completion_logps(
    model: Any, ids: Tensor, mask: Tensor, completion_width: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every completion token.

    Args:
        model: A causal language model of transformers, with or without peft adapters.
        ids: [B, P + C]: prompts padded on the left, completions padded on the right.
        mask: [B, P + C], 1 at tokens that count.
        completion_width: C.
        temperature: What the logits are divided by, as they were when the completions were drawn.

    Returns:
        Log-probabilities and entropies in nats, each [B, C]; 0 at padding.
    """
    causal = _causal(model)
    width = ids.shape[1] - completion_width
    row_ids, positions, allowed, source = _layout(ids, mask, width)
    hidden = causal.base_model(
        input_ids=row_ids, attention_mask=_attention(causal, allowed), position_ids=positions, use_cache=False
    ).last_hidden_state.flatten(0, 1)  # [R * L, H]
    counted = mask[:, width:].bool()  # [B, C]
    head = causal.get_output_embeddings()
    logps, entropies = _project(hidden[source], ids[:, width:][counted], head.weight, head.bias, temperature)
    empty = logps.new_zeros(counted.shape)
    return empty.masked_scatter(counted, logps), empty.masked_scatter(counted, entropies)


def _attention(causal: Any, allowed: Tensor) -> Tensor:
    """The mask [R, 1, L, L] as the model's attention takes it: sdpa a boolean one in any precision, eager a summand."""
    if causal.config.get_text_config()._attn_implementation == "sdpa":
        return allowed[:, None]
    summand = torch.zeros(allowed.shape, dtype=causal.dtype, device=allowed.device)
    return summand.masked_fill_(~allowed, torch.finfo(causal.dtype).min)[:, None]


def _layout(ids: Tensor, mask: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Packs rows of one prompt.

    Returns:
        Token ids [R, L]; positions [R, L]; which key [.., k] each query [.., q, .] may see, [R, L, L] bool; and, for
        each counted completion token in row order, where in the flattened [R * L] its predicting state stands.
    """
    prompts, owner = torch.unique(torch.cat([ids[:, :width], mask[:, :width]], dim=1), dim=0, return_inverse=True)
    lengths = mask[:, width:].sum(1).tolist()
    members: list[list[int]] = [[] for _ in range(len(prompts))]
    for row, prompt in enumerate(owner.tolist()):
        members[prompt].append(row)
    length = width - 1 + max(sum(lengths[m] for m in group) for group in members)
    shape = (len(prompts), length)
    row_ids = torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(shape, dtype=torch.long)
    segment = torch.full(shape, -1)  # -1 padding, 0 prompt, 1 … completions
    starts = [0] * len(ids)
    tokens, counts = ids.cpu(), mask[:, :width].sum(1).tolist()
    for r, group in enumerate(members):
        row_ids[r, : width - 1] = tokens[group[0], : width - 1]
        first = width - counts[group[0]]
        segment[r, first : width - 1] = 0
        positions[r, first : width - 1] = torch.arange(counts[group[0]] - 1)
        at = width - 1
        for number, m in enumerate(group, start=1):
            starts[m], n = r * length + at, lengths[m]
            row_ids[r, at : at + n] = tokens[m, width - 1 : width - 1 + n]
            positions[r, at : at + n] = torch.arange(n) + counts[m] - 1
            segment[r, at : at + n] = number
            at += n
    source = torch.cat([torch.arange(n) + start for start, n in zip(starts, lengths, strict=True)])
    query, key = segment[:, :, None], segment[:, None, :]
    allowed = ((key == query) | (key == 0)) & (key >= 0) & torch.ones(length, length, dtype=torch.bool).tril()
    allowed |= torch.eye(length, dtype=torch.bool)  # padding sees itself: a row of the softmax may not be empty
    device = ids.device
    return row_ids.to(device), positions.to(device), allowed.to(device), source.to(device)


def _project(
    hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, [N] each, from hidden states [N, H]."""
    parts = [
        checkpoint(_project_chunk, h, t, weight, bias, temperature, use_reentrant=False)
        for h, t in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _project_chunk(
    hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    logits = torch.nn.functional.linear(hidden, weight, bias).float() / temperature  # [n, V]
    normaliser = logits.logsumexp(-1)  # [n]
    logps = logits.gather(-1, targets[:, None])[:, 0] - normaliser
    entropies = normaliser - ((logits - normaliser[:, None]).exp() * logits).sum(-1)
    return logps, entropies
