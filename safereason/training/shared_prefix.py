"""Log-probabilities of completions, with the common part of their prompts computed once.

GRPO scores G completions of the same prompt, and a guard's prompts all begin with its policy. Row by row, the model
would run these common tokens again and again, forward and backward. Here several rows of a batch are packed into one.
Take three rows: completions A and B of one prompt, and completion D of another. Both prompts begin with c1 c2:

    c1 c2 p1 p2 | a1 a2 a3
    c1 c2 p1 p2 | b1 b2
    c1 c2 q1    | d1 d2 d3

They become this packed row, in which each column is one token:

    token       c1 c2 | p1 | p2 a1 a2 | p2 b1 | q1 d1 d2
    predicts          |    | a1 a2 a3 | b1 b2 | d1 d2 d3
    position     0  1 |  2 |  3  4  5 |  3  4 |  2  3  4
    prompt       0  0 |  1 |  1  1  1 |  1  1 |  2  2  2
    completion   0  0 |  0 |  1  1  1 |  2  2 |  1  1  1

- Each completion begins with a copy of its prompt's last token, whose hidden state predicts the completion's first
  token. The last token of a completion predicts nothing that is scored, so it is left out.
- A token has the position that it has in its own row of the batch, not its place in the packed row.
- The attention mask keeps the rows of the batch apart. A query (left) sees the keys (top) that are marked:

                  c1 c2 p1 p2 a1 a2 p2 b1 q1 d1 d2
        c1         x
        c2         x  x
        p1         x  x  x
        p2 of A    x  x  x  x
        a1         x  x  x  x  x
        a2         x  x  x  x  x  x
        p2 of B    x  x  x           x
        b1         x  x  x           x  x
        q1         x  x                    x
        d1         x  x                    x  x
        d2         x  x                    x  x  x

So every token attends to the same tokens at the same positions as in a row of its own, and the result equals the plain
computation up to rounding.

Sizes in the shapes below: the batch has B rows, with prompts padded to P tokens, completions padded to C tokens, and N
completion tokens in all. It is packed into R rows of L tokens. H is the width of a hidden state, V the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel

from safereason.engines import architectures
from safereason.engines.transformers import common_length
from safereason.training.model import without_adapters

CHUNK_TOKENS = 1024
"""Tokens projected onto the vocabulary at a time."""
LEAST_COMMON_TOKENS = 32
"""Fewest tokens that all prompts begin with, at which several prompts are put into one packed row."""
ROW_TOKENS = 1280
"""Length that packed rows of several prompts aim at: the cost of attention grows with the square of it."""
PADDING = -1
"""The number of the prompt, at a token that only fills a packed row up."""


# Which models


def is_supported(model: PreTrainedModel) -> bool:
    """Whether the packed computation is exact for the model's architecture and the options of its configuration."""
    causal = without_adapters(model)
    # Other implementations of attention do not take the mask of packed rows.
    attention = causal.config.get_text_config()._attn_implementation
    return has_linear_head(causal) and attention in ("sdpa", "eager") and architectures.shares_prompts(causal)


def has_linear_head(causal: PreTrainedModel) -> bool:
    """Whether the output layer is a linear map; an adapter on it has more to it than its weight."""
    return type(_output_embeddings(causal)) is torch.nn.Linear


# The computation


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
    prompt_width = ids.shape[1] - completion_width  # P
    packed = _pack(ids, mask, prompt_width)
    output = causal.base_model(
        input_ids=packed.ids,
        attention_mask=_attention_mask(causal, packed.visible),
        position_ids=packed.positions,
        use_cache=False,
    )
    states = output.last_hidden_state.flatten(0, 1)  # [R * L, H]
    is_completion = mask[:, prompt_width:].bool()  # [B, C]
    targets = ids[:, prompt_width:][is_completion]  # [N]
    logps, entropies = project(causal, states[packed.predicting], targets, temperature)  # [N] each
    empty = logps.new_zeros(is_completion.shape)  # [B, C]
    return empty.masked_scatter(is_completion, logps), empty.masked_scatter(is_completion, entropies)


def gain(ids: Tensor, mask: Tensor, completion_width: int) -> float:
    """The ratio of the batch's tokens to those of the packed rows with their padding, above 1 where packing saves any.

    The arguments are those of `completion_logps`.
    """
    prompts, completions = _unpadded(ids, mask, ids.shape[1] - completion_width)
    arrangement = _arrange(_group_by_prompt(prompts, completions))
    return float(mask.sum()) / (len(arrangement.rows) * arrangement.row_length)


# Packing


class _PackedBatch(NamedTuple):
    """R packed rows of L tokens, which hold the B rows of a batch."""

    ids: Tensor
    """Token ids, [R, L]; 0 at padding."""
    positions: Tensor
    """Position of each token in its own row of the batch, [R, L], from 0; 0 at padding."""
    visible: Tensor
    """Whether a query [.., q, .] attends to a key [.., k], [R, L, L] bool."""
    predicting: Tensor
    """Index into the flat [R * L] of the token that predicts each completion token, [N], row of the batch by row."""


def _pack(ids: Tensor, mask: Tensor, prompt_width: int) -> _PackedBatch:
    """The packed rows of a batch.

    Args:
        ids: [B, P + C]: prompts padded on the left, completions padded on the right.
        mask: [B, P + C], 1 at tokens that count.
        prompt_width: P.
    """
    prompts, completions = _unpadded(ids, mask, prompt_width)
    arrangement = _arrange(_group_by_prompt(prompts, completions))
    rows: list[_PackedRow] = []
    # By row of the batch: the index, in the flat [R * L], of the token that predicts its completion's first token.
    first_predicting = [0] * len(completions)
    for row_number, groups in enumerate(arrangement.rows):
        row = _PackedRow()
        row.append(groups[0].prompt[: arrangement.common], first_position=0, prompt=0, completion=0)
        for prompt_number, group in enumerate(groups, start=1):
            last = len(group.prompt) - 1
            # The last token is part of each completion instead.
            rest = group.prompt[arrangement.common : last]
            row.append(rest, first_position=arrangement.common, prompt=prompt_number, completion=0)
            for completion_number, member in enumerate(group.members, start=1):
                completion = completions[member]
                # As many tokens as the completion has: an empty one has nothing to predict.
                predicting = [group.prompt[last], *completion][: len(completion)]
                first_predicting[member] = row_number * arrangement.row_length + len(row.ids)
                row.append(predicting, first_position=last, prompt=prompt_number, completion=completion_number)
        rows.append(row)
    # A completion's tokens lie side by side in the packed row.
    indices = []
    for first, completion in zip(first_predicting, completions, strict=True):
        indices.append(torch.arange(first, first + len(completion)))
    # Everything above is on the CPU, because each of thousands of small writes to a GPU would launch a kernel.
    device = ids.device
    visible = _visible(_padded([row.prompts for row in rows], PADDING), _padded([row.completions for row in rows], 0))
    return _PackedBatch(
        ids=_padded([row.ids for row in rows], 0).to(device),
        positions=_padded([row.positions for row in rows], 0).to(device),
        visible=visible.to(device),
        predicting=torch.cat(indices).to(device),
    )


def _unpadded(ids: Tensor, mask: Tensor, prompt_width: int) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and completions of the B rows of a batch, as lists; arguments as of `_pack`."""
    # One copy to the CPU each: reading row by row would wait for the GPU every time.
    rows = ids.tolist()
    prompt_lengths = mask[:, :prompt_width].sum(1).tolist()  # [B]
    completion_lengths = mask[:, prompt_width:].sum(1).tolist()  # [B]
    prompts = []
    completions = []
    for row, prompt_length, completion_length in zip(rows, prompt_lengths, completion_lengths, strict=True):
        prompts.append(row[prompt_width - prompt_length : prompt_width])
        completions.append(row[prompt_width : prompt_width + completion_length])
    return prompts, completions


@dataclass(frozen=True)
class _PromptGroup:
    """A prompt, and the rows of the batch that begin with it."""

    prompt: list[int]
    """Token ids."""
    members: list[int]
    """Row numbers in the batch, one for each completion."""
    packed_tokens: int
    """Tokens that the group takes in a row of its own: the prompt but its last token, and one a completion token."""


def _group_by_prompt(prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[_PromptGroup]:
    """The different prompts of a batch, in the order in which they first come."""
    members_by_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        members_by_prompt.setdefault(tuple(prompt), []).append(row)
    groups: list[_PromptGroup] = []
    for prompt_ids, members in members_by_prompt.items():
        completion_tokens = sum(len(completions[row]) for row in members)
        groups.append(_PromptGroup(list(prompt_ids), members, len(prompt_ids) - 1 + completion_tokens))
    return groups


@dataclass(frozen=True)
class _Arrangement:
    """The groups of a batch, shared out to packed rows."""

    rows: list[list[_PromptGroup]]
    """The groups of each of the R packed rows."""
    common: int
    """Number of tokens that all prompts begin with and that stand once, at the head of each packed row."""

    @property
    def row_length(self) -> int:
        """Tokens of the longest packed row, L."""
        return max(self.common + sum(group.packed_tokens - self.common for group in row) for row in self.rows)


def _arrange(groups: Sequence[_PromptGroup]) -> _Arrangement:
    """Groups whose prompts begin alike, in few packed rows of about one length; any others in a row each."""
    # At least the last token of each prompt is not counted as common, because each completion needs its own copy of it.
    common = common_length([group.prompt for group in groups], LEAST_COMMON_TOKENS)
    if not common:
        return _Arrangement([[group] for group in groups], 0)
    tokens = sum(group.packed_tokens - common for group in groups)
    row_count = min(len(groups), ceil(tokens / max(ROW_TOKENS - common, 1)))
    rows: list[list[_PromptGroup]] = [[] for _ in range(row_count)]
    row_lengths = [common] * row_count
    # The longest first, each into the row that is the shortest so far: a usual heuristic for rows of equal length.
    for group in sorted(groups, key=lambda group: -group.packed_tokens):
        shortest = row_lengths.index(min(row_lengths))
        rows[shortest].append(group)
        row_lengths[shortest] += group.packed_tokens - common
    return _Arrangement(rows, common)


@dataclass
class _PackedRow:
    """A packed row that is being written: four numbers for each of its tokens, as the picture above has them."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    """Number of the token's prompt in the packed row; 0 in the common beginning."""
    completions: list[int] = field(default_factory=list)
    """Number of the token's completion among those of its prompt; 0 in the prompt itself."""

    def append(self, tokens: Sequence[int], *, first_position: int, prompt: int, completion: int) -> None:
        """Adds tokens of one prompt and completion, at positions that count on from the first one."""
        self.ids += tokens
        self.positions += range(first_position, first_position + len(tokens))
        self.prompts += [prompt] * len(tokens)
        self.completions += [completion] * len(tokens)


def _padded(rows: Sequence[list[int]], value: int) -> Tensor:
    """[R, L] of R lists of at most L numbers, filled up with a value."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value)


def _visible(prompts: Tensor, completions: Tensor) -> Tensor:
    """[R, L, L] bool: a token sees earlier tokens of the common beginning, of its own prompt and of its own completion.

    Args:
        prompts: Number of each token's prompt in its packed row, [R, L]: `PADDING`, or 0 in the common beginning.
        completions: Number of each token's completion, [R, L]: 0 in a prompt itself.
    """
    row_length = prompts.shape[1]  # L
    prompt_of_query, prompt_of_key = prompts[:, :, None], prompts[:, None, :]  # [R, L, 1] and [R, 1, L]
    completion_of_query, completion_of_key = completions[:, :, None], completions[:, None, :]
    is_common = prompt_of_key == 0
    is_own_prompt = prompt_of_key == prompt_of_query
    is_own_completion = (completion_of_key == 0) | (completion_of_key == completion_of_query)
    is_earlier = torch.ones(row_length, row_length, dtype=torch.bool).tril()  # [L, L]
    visible = (is_common | (is_own_prompt & is_own_completion)) & (prompt_of_key != PADDING) & is_earlier
    # Padding sees itself: an empty row of the softmax would be NaN, and its gradient too.
    return visible | torch.eye(row_length, dtype=torch.bool)


def _attention_mask(causal: PreTrainedModel, visible: Tensor) -> Tensor:
    """The mask [R, 1, L, L] as the model's attention takes it; 1 stands for all heads."""
    # sdpa takes a boolean mask in any precision, and eager attention adds the mask to its scores.
    if causal.config.get_text_config()._attn_implementation == "sdpa":
        return visible[:, None]
    summand = torch.zeros(visible.shape, dtype=causal.dtype, device=visible.device)
    return summand.masked_fill_(~visible, torch.finfo(causal.dtype).min)[:, None]


# From hidden states to log-probabilities


class _WithHead(Protocol):
    """A causal language model; transformers does not type the method that returns its head."""

    config: PreTrainedConfig

    def get_output_embeddings(self) -> torch.nn.Module: ...


@dataclass(frozen=True)
class _Head:
    """The map from states to logits: W h + b, times a scale, under a cap."""

    weight: Tensor
    """[V, H]."""
    bias: Tensor | None
    """[V]."""
    scale: float
    cap: float | None

    def logits(self, states: Tensor) -> Tensor:
        """[n, V] in fp32 from [n, H]."""
        logits = torch.nn.functional.linear(states, self.weight, self.bias).float()
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


def project(causal: PreTrainedModel, states: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens, and entropies of the distributions that they were drawn from.

    Args:
        causal: A model with a linear head (`has_linear_head`) of a listed architecture (`architectures.PROJECTED`).
        states: Last hidden states that predict the tokens, [N, H].
        targets: The tokens, [N].
        temperature: The divisor of the logits.

    Returns:
        Both in nats and float32, [N] each.
    """
    head = _head_of(causal)
    logps = []
    entropies = []
    # Logits of all tokens, [N, V], would be the largest tensor of a training. A chunk's are freed once its figures are
    # there, and computed again in the backward pass.
    chunks = zip(torch.split(states, CHUNK_TOKENS), torch.split(targets, CHUNK_TOKENS), strict=True)
    for chunk_states, chunk_targets in chunks:
        chunk_logps, chunk_entropies = checkpoint(
            _project_chunk, chunk_states, chunk_targets, head, temperature, use_reentrant=False
        )
        logps.append(chunk_logps)
        entropies.append(chunk_entropies)
    return torch.cat(logps), torch.cat(entropies)


def _project_chunk(states: Tensor, targets: Tensor, head: _Head, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies, [n] each, of the tokens [n] that n states [n, H] predict."""
    logits = head.logits(states) / temperature  # [n, V]
    # With p = exp(logit - log Z): log p of the target, and the entropy -Σ p log p = log Z - Σ p · logit.
    log_z = logits.logsumexp(-1)  # [n]
    logps = logits.gather(-1, targets[:, None])[:, 0] - log_z
    entropies = log_z - ((logits - log_z[:, None]).exp() * logits).sum(-1)
    return logps, entropies
