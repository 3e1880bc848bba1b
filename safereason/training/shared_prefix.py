"""Log-probabilities of completions with what their prompts share computed once.

GRPO scores G completions of the same prompt, and a guard's prompts all begin with its policy. Row by row all of it is
run again and again, forward and backward; here one row holds what several prompts begin with, then the rest of each
prompt followed by all of its completions, and the attention mask keeps prompts and completions apart:

    row:        c1 c2 .. | p1 p2 .. p(n-1) | pn a1 a2 .. | pn b1 b2 .. | q1 q2 .. q(m-1) | qm d1 d2 .. | ...
    attends to: itself   | c, itself       | c, p, a     | c, p, b     | c, itself       | c, q, d     |

Each completion starts with its own copy of the last prompt token, whose hidden state predicts its first token. The
result equals the plain computation up to rounding: every token sees the same tokens at the same positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from safereason.engines import architectures
from safereason.engines.transformers import common_length

CHUNK = 1024
"""Tokens projected onto the vocabulary at a time; their logits are recomputed in the backward pass."""

SHARE_FROM = 32
"""Tokens that prompts begin with alike, from which on several of them are put into one row."""
ROW = 1280
"""Tokens that a row is meant to have at most: attention grows with the square of it."""


def is_supported(model: Any) -> bool:
    """Whether the packed computation is exact: by the list of architectures, and by what the configuration turns on."""
    causal = _causal(model)
    # An adapter on the head has more to it than the head's weight.
    plain = type(causal.get_output_embeddings()) is torch.nn.Linear
    attention = causal.config.get_text_config()._attn_implementation
    return plain and attention in ("sdpa", "eager") and architectures.shares_prompts(causal)


@dataclass(frozen=True)
class _Head:
    """How states become logits: W h + b, times a scale, under a cap."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    cap: float | None

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, V] in fp32 from [n, H]."""
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def _head(causal: Any) -> _Head:
    """The model's head; Cohere multiplies its logits, Granite divides them, Gemma caps them."""
    linear, config = causal.get_output_embeddings(), causal.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return _Head(linear.weight, linear.bias, scale, getattr(config, "final_logit_softcapping", None))


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
    logps, entropies = _project(hidden[source], ids[:, width:][counted], _head(causal), temperature)
    empty = logps.new_zeros(counted.shape)
    return empty.masked_scatter(counted, logps), empty.masked_scatter(counted, entropies)


def _attention(causal: Any, allowed: Tensor) -> Tensor:
    """The mask [R, 1, L, L] as the model's attention takes it: sdpa a boolean one in any precision, eager a summand."""
    if causal.config.get_text_config()._attn_implementation == "sdpa":
        return allowed[:, None]
    summand = torch.zeros(allowed.shape, dtype=causal.dtype, device=allowed.device)
    return summand.masked_fill_(~allowed, torch.finfo(causal.dtype).min)[:, None]


def gain(ids: Tensor, mask: Tensor, completion_width: int) -> float:
    """Tokens that count, for each one of the packed rows with their padding; arguments as of `completion_logps`."""
    width = ids.shape[1] - completion_width
    groups = _groups(ids, mask, width, mask[:, width:].sum(1).tolist())
    common = _common(groups)
    rows = _rows(groups, common)
    return float(mask.sum()) / (len(rows) * _length(rows, common))


@dataclass(frozen=True)
class _Group:
    """A prompt and the rows of the batch that go on from it."""

    prompt: list[int]
    members: list[int]
    size: int
    """Tokens of the prompt but its last one, and of all completions."""


def _layout(ids: Tensor, mask: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Packs rows by what they share.

    Returns:
        Token ids [R, L]; positions [R, L]; which key [.., k] each query [.., q, .] may see, [R, L, L] bool; and, for
        each counted completion token in row order, where in the flattened [R * L] its predicting state stands.
    """
    lengths = mask[:, width:].sum(1).tolist()
    groups = _groups(ids, mask, width, lengths)
    common = _common(groups)
    rows = _rows(groups, common)
    length = _length(rows, common)
    shape = (len(rows), length)
    row_ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    # Of each token: its prompt (-1 padding, 0 what all share, 1 …), and its branch (0 the prompt, 1 … completions).
    owner, branch = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
    starts = [0] * len(ids)
    tokens = ids.cpu()

    def put(r: int, at: int, values: Tensor, position: int, prompt: int, number: int) -> int:
        place = slice(at, at + len(values))
        row_ids[r, place], owner[r, place], branch[r, place] = values, prompt, number
        positions[r, place] = torch.arange(len(values)) + position
        return at + len(values)

    for r, row in enumerate(rows):
        at = put(r, 0, torch.tensor(row[0].prompt[:common], dtype=torch.long), 0, 0, 0)
        for number, group in enumerate(row, start=1):
            last = len(group.prompt) - 1
            at = put(r, at, torch.tensor(group.prompt[common:last], dtype=torch.long), common, number, 0)
            for k, m in enumerate(group.members, start=1):
                starts[m] = r * length + at
                at = put(r, at, tokens[m, width - 1 : width - 1 + lengths[m]], last, number, k)
    source = torch.cat([torch.arange(n) + start for start, n in zip(starts, lengths, strict=True)])
    allowed = _allowed(owner, branch)
    device = ids.device
    return row_ids.to(device), positions.to(device), allowed.to(device), source.to(device)


def _groups(ids: Tensor, mask: Tensor, width: int, lengths: Sequence[int]) -> list[_Group]:
    """The prompts of a batch, in the order they come in."""
    members: dict[tuple[int, ...], list[int]] = {}
    for row, (tokens, kept) in enumerate(zip(ids[:, :width].cpu(), mask[:, :width].cpu().bool(), strict=True)):
        members.setdefault(tuple(tokens[kept].tolist()), []).append(row)
    return [_Group(list(p), m, len(p) - 1 + sum(lengths[i] for i in m)) for p, m in members.items()]


def _common(groups: Sequence[_Group]) -> int:
    """Tokens that all prompts begin with, the last one of each left out; 0 where they are too few to share."""
    return common_length([group.prompt for group in groups], SHARE_FROM)


def _rows(groups: Sequence[_Group], common: int) -> list[list[_Group]]:
    """Prompts that share enough are put together into as few short rows as do, of about one length; others alone."""
    if not common:
        return [[group] for group in groups]
    count = min(len(groups), ceil(sum(group.size - common for group in groups) / max(ROW - common, 1)))
    rows: list[list[_Group]] = [[] for _ in range(count)]
    lengths = [common] * count
    for group in sorted(groups, key=lambda group: -group.size):
        shortest = lengths.index(min(lengths))
        rows[shortest].append(group)
        lengths[shortest] += group.size - common
    return rows


def _length(rows: Sequence[Sequence[_Group]], common: int) -> int:
    """Tokens of the longest row."""
    return max(common + sum(group.size - common for group in row) for row in rows)


def _allowed(owner: Tensor, branch: Tensor) -> Tensor:
    """[R, L, L] bool: a token sees what came before in what all share, in its own prompt and in its own branch."""
    length = owner.shape[1]
    query, key = owner[:, :, None], owner[:, None, :]
    same = (key == query) & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
    allowed = ((key == 0) | same) & (key >= 0) & torch.ones(length, length, dtype=torch.bool).tril()
    return allowed | torch.eye(length, dtype=torch.bool)  # padding sees itself: a row of the softmax may not be empty


def _project(hidden: Tensor, targets: Tensor, head: _Head, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, [N] each, from hidden states [N, H]."""
    parts = [
        checkpoint(_project_chunk, h, t, head, temperature, use_reentrant=False)
        for h, t in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _project_chunk(hidden: Tensor, targets: Tensor, head: _Head, temperature: float) -> tuple[Tensor, Tensor]:
    logits = head.logits(hidden) / temperature  # [n, V]
    normaliser = logits.logsumexp(-1)  # [n]
    logps = logits.gather(-1, targets[:, None])[:, 0] - normaliser
    entropies = normaliser - ((logits - normaliser[:, None]).exp() * logits).sum(-1)
    return logps, entropies
