"""Log-probabilities of completions, with the common part of their prompts computed once.

GRPO scores G completions of the same prompt, and a guard's prompts all begin with its policy. Row by row all of it is
run again and again, forward and backward. Here one row holds the common beginning of several prompts, then the rest of
each prompt followed by all of its completions, and the attention mask keeps prompts and completions apart:

    row:        c1 c2 .. | p1 p2 .. p(n-1) | pn a1 a2 .. | pn b1 b2 .. | q1 q2 .. q(m-1) | qm d1 d2 .. | ...
    attends to: itself   | c, itself       | c, p, a     | c, p, b     | c, itself       | c, q, d     |

Each completion starts with its own copy of the last prompt token, whose hidden state predicts its first token. The
result equals the plain computation up to rounding: every token sees the same tokens at the same positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel

from safereason.engines import architectures
from safereason.engines.transformers import common_length
from safereason.training.model import without_adapters

CHUNK = 1024
"""Tokens projected onto the vocabulary at a time; their logits are recomputed in the backward pass."""

SHARE_FROM = 32
"""Least number of tokens that prompts begin with alike at which several of them are put into one row."""
ROW = 1280
"""Tokens that a row is meant to have at most: attention grows with the square of it."""


class _WithHead(Protocol):
    """A causal language model; transformers does not type the method that returns its head."""

    config: PreTrainedConfig

    def get_output_embeddings(self) -> torch.nn.Module: ...


def is_supported(model: PreTrainedModel) -> bool:
    """Whether the packed computation is exact for the model's architecture and the options of its configuration."""
    causal = without_adapters(model)
    # An adapter on the head has more to it than the head's weight.
    has_plain_head = type(_output_embeddings(causal)) is torch.nn.Linear
    # Other implementations of attention do not take the mask of packed rows.
    attention = causal.config.get_text_config()._attn_implementation
    return has_plain_head and attention in ("sdpa", "eager") and architectures.shares_prompts(causal)


@dataclass(frozen=True)
class _Head:
    """The map from states to logits: W h + b, times a scale, under a cap."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    cap: float | None

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, V] in fp32 from [n, H]."""
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap is None:
            return logits
        return self.cap * torch.tanh(logits / self.cap)


def _output_embeddings(causal: _WithHead) -> torch.nn.Module:
    return causal.get_output_embeddings()


def _head_of(causal: PreTrainedModel) -> _Head:
    """The model's head; Cohere multiplies its logits, Granite divides them, Gemma caps them."""
    linear = _output_embeddings(causal)
    assert isinstance(linear, torch.nn.Linear)
    config = causal.config.get_text_config()
    multiplier = float(getattr(config, "logit_scale", None) or 1.0)
    divisor = float(getattr(config, "logits_scaling", None) or 1.0)
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    return _Head(linear.weight, linear.bias, multiplier / divisor, cap)


def completion_logps(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, completion_width: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every completion token.

    Args:
        model: A causal language model of transformers, with or without peft adapters.
        ids: [B, P + C]: prompts padded on the left, completions padded on the right.
        mask: [B, P + C], 1 at tokens that count.
        completion_width: C.
        temperature: The divisor of the logits, as it was when the completions were drawn.

    Returns:
        Log-probabilities and entropies in nats, each [B, C]; 0 at padding.
    """
    causal = without_adapters(model)
    width = ids.shape[1] - completion_width
    packed = _pack_batch(ids, mask, width)
    output = causal.base_model(
        input_ids=packed.ids,
        attention_mask=_attention_mask(causal, packed.allowed),
        position_ids=packed.positions,
        use_cache=False,
    )
    hidden = output.last_hidden_state.flatten(0, 1)  # [R * L, H]
    counted = mask[:, width:].bool()  # [B, C]
    targets = ids[:, width:][counted]
    logps, entropies = _project(hidden[packed.source], targets, _head_of(causal), temperature)
    empty = logps.new_zeros(counted.shape)
    return empty.masked_scatter(counted, logps), empty.masked_scatter(counted, entropies)


def _attention_mask(causal: PreTrainedModel, allowed: Tensor) -> Tensor:
    """The mask [R, 1, L, L] as the model's attention takes it: sdpa a boolean one in any precision, eager a summand."""
    if causal.config.get_text_config()._attn_implementation == "sdpa":
        return allowed[:, None]
    summand = torch.zeros(allowed.shape, dtype=causal.dtype, device=allowed.device)
    return summand.masked_fill_(~allowed, torch.finfo(causal.dtype).min)[:, None]


def gain(ids: Tensor, mask: Tensor, completion_width: int) -> float:
    """Tokens that count, for each one of the packed rows with their padding; arguments as of `completion_logps`."""
    width = ids.shape[1] - completion_width
    groups = _group_by_prompt(ids, mask, width, mask[:, width:].sum(1).tolist())
    common = _common_tokens(groups)
    rows = _arrange(groups, common)
    return float(mask.sum()) / (len(rows) * _longest(rows, common))


@dataclass(frozen=True)
class _Group:
    """A prompt and its completions in the batch."""

    prompt: list[int]
    members: list[int]
    """Rows of the batch that begin with the prompt."""
    size: int
    """Tokens of the prompt but its last one, and of all completions."""


class _Packed(NamedTuple):
    """R rows of L tokens that hold the B rows of a batch."""

    ids: Tensor
    """Token ids [R, L]."""
    positions: Tensor
    """[R, L]."""
    allowed: Tensor
    """[R, L, L] bool: the keys [.., k] that each query [.., q, .] may attend to."""
    source: Tensor
    """[N]: of each counted completion token in row order, the slot of its predicting state in the flat [R * L]."""


def _pack_batch(ids: Tensor, mask: Tensor, width: int) -> _Packed:
    """Packs the rows of a batch by their common beginnings; arguments as of `completion_logps`, `width` is P."""
    lengths = mask[:, width:].sum(1).tolist()
    groups = _group_by_prompt(ids, mask, width, lengths)
    common = _common_tokens(groups)
    rows = _arrange(groups, common)
    length = _longest(rows, common)
    shape = (len(rows), length)
    # All of it is filled on the CPU: thousands of small writes to a GPU would each launch a kernel.
    row_ids = torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(shape, dtype=torch.long)
    # Each token's prompt (-1 padding, 0 the common beginning, 1 …) and branch (0 the prompt itself, 1 … completions).
    owner = torch.full(shape, -1)
    branch = torch.zeros(shape, dtype=torch.long)
    starts = [0] * len(ids)
    tokens = ids.cpu()

    def put(r: int, start: int, values: Tensor, position: int, prompt: int, number: int) -> int:
        """Writes tokens into a row from `start` on; returns the next free slot."""
        slots = slice(start, start + len(values))
        row_ids[r, slots] = values
        owner[r, slots] = prompt
        branch[r, slots] = number
        positions[r, slots] = torch.arange(len(values)) + position
        return start + len(values)

    for r, row in enumerate(rows):
        free = put(r, 0, torch.tensor(row[0].prompt[:common], dtype=torch.long), 0, 0, 0)
        for number, group in enumerate(row, start=1):
            last = len(group.prompt) - 1
            free = put(r, free, torch.tensor(group.prompt[common:last], dtype=torch.long), common, number, 0)
            for k, member in enumerate(group.members, start=1):
                starts[member] = r * length + free
                # From the prompt's last token on, and without the completion's last one, which predicts nothing.
                predicting = tokens[member, width - 1 : width - 1 + lengths[member]]
                free = put(r, free, predicting, last, number, k)
    source = torch.cat([torch.arange(n) + start for start, n in zip(starts, lengths, strict=True)])
    allowed = _allowed(owner, branch)
    device = ids.device
    return _Packed(row_ids.to(device), positions.to(device), allowed.to(device), source.to(device))


def _group_by_prompt(ids: Tensor, mask: Tensor, width: int, lengths: Sequence[int]) -> list[_Group]:
    """The prompts of a batch in their order; `lengths` are those of the completions."""
    members_by_prompt: dict[tuple[int, ...], list[int]] = {}
    # On the CPU: comparing rows as tuples would wait for the GPU once per row.
    for row, (tokens, kept) in enumerate(zip(ids[:, :width].cpu(), mask[:, :width].cpu().bool(), strict=True)):
        members_by_prompt.setdefault(tuple(tokens[kept].tolist()), []).append(row)
    groups: list[_Group] = []
    for prompt, members in members_by_prompt.items():
        completions = sum(lengths[row] for row in members)
        groups.append(_Group(list(prompt), members, len(prompt) - 1 + completions))
    return groups


def _common_tokens(groups: Sequence[_Group]) -> int:
    """Tokens that all prompts begin with, the last one of each left out; 0 where they are too few to share."""
    return common_length([group.prompt for group in groups], SHARE_FROM)


def _arrange(groups: Sequence[_Group], common: int) -> list[list[_Group]]:
    """The prompts of each packed row; those that share enough are put together into few rows of about one length."""
    if not common:
        return [[group] for group in groups]
    total = sum(group.size - common for group in groups)
    count = min(len(groups), ceil(total / max(ROW - common, 1)))
    rows: list[list[_Group]] = [[] for _ in range(count)]
    lengths = [common] * count
    # The longest first, each into the row that is the shortest so far: a usual heuristic for rows of equal length.
    for group in sorted(groups, key=lambda group: -group.size):
        shortest = lengths.index(min(lengths))
        rows[shortest].append(group)
        lengths[shortest] += group.size - common
    return rows


def _longest(rows: Sequence[Sequence[_Group]], common: int) -> int:
    """Tokens of the longest row."""
    return max(common + sum(group.size - common for group in row) for row in rows)


def _allowed(owner: Tensor, branch: Tensor) -> Tensor:
    """[R, L, L] bool: a token sees earlier tokens of the common beginning, of its own prompt and of its own branch."""
    length = owner.shape[1]
    query, key = owner[:, :, None], owner[:, None, :]
    same_prompt = key == query
    same_branch = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    allowed = ((key == 0) | (same_prompt & same_branch)) & (key >= 0) & earlier
    # Padding sees itself: an empty row of the softmax would be NaN, and its gradient too.
    return allowed | torch.eye(length, dtype=torch.bool)


def _project(hidden: Tensor, targets: Tensor, head: _Head, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, [N] each, from hidden states [N, H]."""
    logps = []
    entropies = []
    for states, ids in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True):
        logp, entropy = checkpoint(_project_chunk, states, ids, head, temperature, use_reentrant=False)
        logps.append(logp)
        entropies.append(entropy)
    return torch.cat(logps), torch.cat(entropies)


def _project_chunk(hidden: Tensor, targets: Tensor, head: _Head, temperature: float) -> tuple[Tensor, Tensor]:
    logits = head.logits(hidden) / temperature  # [n, V]
    normaliser = logits.logsumexp(-1)  # [n]
    logps = logits.gather(-1, targets[:, None])[:, 0] - normaliser
    entropies = normaliser - ((logits - normaliser[:, None]).exp() * logits).sum(-1)
    return logps, entropies
