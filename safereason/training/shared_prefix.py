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
    # Other implementations of attention do not take the mask of packed rows.
    attention = causal.config.get_text_config()._attn_implementation
    return has_linear_head(causal) and attention in ("sdpa", "eager") and architectures.shares_prompts(causal)


def has_linear_head(causal: PreTrainedModel) -> bool:
    """Whether the output layer is a linear map; an adapter on it has more to it than its weight."""
    return type(_output_embeddings(causal)) is torch.nn.Linear


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
    prompt_width = ids.shape[1] - completion_width
    packed = _pack_batch(ids, mask, prompt_width)
    output = causal.base_model(
        input_ids=packed.ids,
        attention_mask=_attention_mask(causal, packed.allowed),
        position_ids=packed.positions,
        use_cache=False,
    )
    hidden = output.last_hidden_state.flatten(0, 1)  # [R * L, H]
    counted = mask[:, prompt_width:].bool()  # [B, C]
    targets = ids[:, prompt_width:][counted]  # [N]
    logps, entropies = project(causal, hidden[packed.source], targets, temperature)
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
    prompt_width = ids.shape[1] - completion_width
    groups = _group_by_prompt(ids, mask, prompt_width, mask[:, prompt_width:].sum(1).tolist())
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
    """Token ids [R, L]; 0 at padding."""
    positions: Tensor
    """Positions [R, L] that the tokens have in their own row of the batch, from 0; 0 at padding."""
    allowed: Tensor
    """[R, L, L] bool: the keys [.., k] that each query [.., q, .] may attend to."""
    source: Tensor
    """[N]: of each counted completion token in row order, the slot of its predicting state in the flat [R * L]."""


def _pack_batch(ids: Tensor, mask: Tensor, prompt_width: int) -> _Packed:
    """Packs the B rows of a batch into R rows of L tokens, by their common beginnings.

    Args:
        ids: [B, P + C]: prompts padded on the left, completions padded on the right.
        mask: [B, P + C], 1 at tokens that count.
        prompt_width: P.
    """
    completion_lengths = mask[:, prompt_width:].sum(1).tolist()  # [B]
    groups = _group_by_prompt(ids, mask, prompt_width, completion_lengths)
    common = _common_tokens(groups)
    rows = _arrange(groups, common)
    row_length = _longest(rows, common)  # L
    shape = (len(rows), row_length)
    # All of it is filled on the CPU: thousands of small writes to a GPU would each launch a kernel.
    packed_ids = torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(shape, dtype=torch.long)
    # The prompt of each token: -1 at padding, 0 in the common beginning, and from 1 on the prompts of the row.
    prompts = torch.full(shape, -1)
    # The branch of each token: 0 in a prompt, and from 1 on the completions of that prompt.
    branches = torch.zeros(shape, dtype=torch.long)
    # By row of the batch: the slot, in the flat [R * L], of the state that predicts its completion's first token.
    first_slots = [0] * len(ids)
    batch_ids = ids.cpu()

    def put(row: int, slot: int, tokens: Tensor, position: int, prompt: int, branch: int) -> int:
        """Writes tokens of one branch into a row, the first one at this slot and position; returns the next slot."""
        end = slot + len(tokens)
        packed_ids[row, slot:end] = tokens
        positions[row, slot:end] = torch.arange(len(tokens)) + position
        prompts[row, slot:end] = prompt
        branches[row, slot:end] = branch
        return end

    for row, groups_of_row in enumerate(rows):
        beginning = torch.tensor(groups_of_row[0].prompt[:common], dtype=torch.long)
        slot = put(row, 0, beginning, position=0, prompt=0, branch=0)
        for prompt, group in enumerate(groups_of_row, start=1):
            last = len(group.prompt) - 1
            rest = torch.tensor(group.prompt[common:last], dtype=torch.long)
            slot = put(row, slot, rest, position=common, prompt=prompt, branch=0)
            for branch, member in enumerate(group.members, start=1):
                first_slots[member] = row * row_length + slot
                # From the prompt's last token on, and without the completion's last one, which predicts nothing.
                start = prompt_width - 1
                predicting = batch_ids[member, start : start + completion_lengths[member]]
                slot = put(row, slot, predicting, position=last, prompt=prompt, branch=branch)
    slots = [torch.arange(count) + first for first, count in zip(first_slots, completion_lengths, strict=True)]
    allowed = _allowed(prompts, branches)
    device = ids.device
    return _Packed(packed_ids.to(device), positions.to(device), allowed.to(device), torch.cat(slots).to(device))


def _group_by_prompt(ids: Tensor, mask: Tensor, prompt_width: int, completion_lengths: Sequence[int]) -> list[_Group]:
    """The prompts of a batch in the order in which they first come; arguments as in `_pack_batch`."""
    members_by_prompt: dict[tuple[int, ...], list[int]] = {}
    # On the CPU: comparing rows as tuples would wait for the GPU once per row.
    prompts = ids[:, :prompt_width].cpu()
    is_token = mask[:, :prompt_width].cpu().bool()
    for row, (tokens, kept) in enumerate(zip(prompts, is_token, strict=True)):
        members_by_prompt.setdefault(tuple(tokens[kept].tolist()), []).append(row)
    groups: list[_Group] = []
    for prompt, members in members_by_prompt.items():
        completion_tokens = sum(completion_lengths[row] for row in members)
        groups.append(_Group(list(prompt), members, len(prompt) - 1 + completion_tokens))
    return groups


def _common_tokens(groups: Sequence[_Group]) -> int:
    """Tokens that all prompts begin with, the last one of each left out; 0 where they are too few to share."""
    return common_length([group.prompt for group in groups], SHARE_FROM)


def _arrange(groups: Sequence[_Group], common: int) -> list[list[_Group]]:
    """The prompts of each packed row, R in all; those that share enough go into few rows of about one length."""
    if not common:
        return [[group] for group in groups]
    total = sum(group.size - common for group in groups)
    row_count = min(len(groups), ceil(total / max(ROW - common, 1)))
    rows: list[list[_Group]] = [[] for _ in range(row_count)]
    row_lengths = [common] * row_count
    # The longest first, each into the row that is the shortest so far: a usual heuristic for rows of equal length.
    for group in sorted(groups, key=lambda group: -group.size):
        shortest = row_lengths.index(min(row_lengths))
        rows[shortest].append(group)
        row_lengths[shortest] += group.size - common
    return rows


def _longest(rows: Sequence[Sequence[_Group]], common: int) -> int:
    """Tokens of the longest row."""
    return max(common + sum(group.size - common for group in row) for row in rows)


def _allowed(prompts: Tensor, branches: Tensor) -> Tensor:
    """[R, L, L] bool: a token sees earlier tokens of the common beginning, of its own prompt and of its own branch.

    Args:
        prompts: Number of each token's prompt in its row, [R, L]: -1 at padding, 0 in the common beginning.
        branches: Number of each token's branch, [R, L]: 0 in a prompt itself.
    """
    row_length = prompts.shape[1]
    prompt_of_query, prompt_of_key = prompts[:, :, None], prompts[:, None, :]
    branch_of_query, branch_of_key = branches[:, :, None], branches[:, None, :]
    same_prompt = prompt_of_key == prompt_of_query
    same_branch = (branch_of_key == 0) | (branch_of_key == branch_of_query)
    earlier = torch.ones(row_length, row_length, dtype=torch.bool).tril()
    allowed = ((prompt_of_key == 0) | (same_prompt & same_branch)) & (prompt_of_key >= 0) & earlier
    # Padding sees itself: an empty row of the softmax would be NaN, and its gradient too.
    return allowed | torch.eye(row_length, dtype=torch.bool)


def project(causal: PreTrainedModel, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens, and entropies of the distributions that they were drawn from.

    Args:
        causal: A model with a linear head (`has_linear_head`) of a listed architecture (`architectures.PROJECTED`).
        hidden: Last hidden states that predict the tokens, [N, H].
        targets: The tokens, [N].
        temperature: The divisor of the logits.

    Returns:
        Both in nats and float32, [N] each.
    """
    head = _head_of(causal)
    logps = []
    entropies = []
    for states, ids in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True):
        logp, entropy = checkpoint(_project_chunk, states, ids, head, temperature, use_reentrant=False)
        logps.append(logp)
        entropies.append(entropy)
    return torch.cat(logps), torch.cat(entropies)


def _project_chunk(hidden: Tensor, targets: Tensor, head: _Head, temperature: float) -> tuple[Tensor, Tensor]:
    """`project` of n states at once."""
    logits = head.logits(hidden) / temperature  # [n, V]
    normaliser = logits.logsumexp(-1)  # [n]
    logps = logits.gather(-1, targets[:, None])[:, 0] - normaliser
    entropies = normaliser - ((logits - normaliser[:, None]).exp() * logits).sum(-1)
    return logps, entropies
