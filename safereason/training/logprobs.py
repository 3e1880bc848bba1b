"""Log-probabilities and entropies of completions, computed inside the model's own forward pass.

DDP and FSDP act when the model that they wrap is called. So the computation is a way to call the model: `install` gives
its forward pass the argument `rows`, and `model(rows=rows)` returns figures of tokens in place of logits. Of three
ways the fastest one that is exact is taken:

1. rows that share a prompt are packed, and the prompt is computed once (`training.shared_prefix`);
2. rows are padded on the right and run together, and their last hidden states projected onto the vocabulary in chunks;
3. each row is run alone through the model's plain forward pass, for architectures that padding would change
   (`engines.architectures`).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from safereason.engines import architectures
from safereason.engines.states import accepted
from safereason.training import shared_prefix
from safereason.training.model import Forward, without_adapters

PROMPT_SHARE = 0.25
"""Least length of prompts, as a share of the completions' length, at which prompts are shared.

Below it the attention of the long packed rows costs more than the prompts that they spare.
"""


@dataclass(frozen=True)
class Rows:
    """Prompts and completions of one forward pass, as token ids. Each completion has one token at least."""

    # A dataclass, which DDP and FSDP pass on as it is: of lists they would copy every number.
    prompts: Sequence[Sequence[int]]
    completions: Sequence[Sequence[int]]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion, [B]."""
        return [len(completion) for completion in self.completions]

    @property
    def shares_prompts(self) -> bool:
        """Whether prompts are so long that packing rows with the same one pays."""
        return max(map(len, self.prompts)) >= PROMPT_SHARE * max(self.lengths)


class TokenLogps(NamedTuple):
    """Figures of the N completion tokens of some rows, row after row, in nats and float32."""

    logps: Tensor
    """Log-probability of each token, [N]."""
    entropies: Tensor
    """Entropy of the distribution that each token was drawn from, [N]."""


def install(model: PreTrainedModel, temperature: float, *, shares_prefix: bool = True) -> None:
    """Gives a model's forward pass the argument `rows`; calls without it are as before.

    Args:
        model: A causal language model, with or without peft adapters, before DDP or FSDP wraps it.
        temperature: Divisor of the logits, as it was when the completions were drawn.
        shares_prefix: Whether prompts may be computed once for all of their completions.
    """
    causal = without_adapters(model)
    plain_forward = causal.forward
    packs = shares_prefix and shared_prefix.is_supported(causal)
    projects = shared_prefix.has_linear_head(causal) and architectures.projects(causal)

    @functools.wraps(type(causal).forward)  # generation looks at the signature
    def forward(self: PreTrainedModel, *arguments: object, rows: Rows | None = None, **named: Any) -> object:
        if rows is None:
            return plain_forward(*arguments, **named)
        if packs and rows.shares_prompts:
            return _packed(self, rows, temperature)
        if projects and architectures.trains_in_batches(self, _longest_row(rows)):
            return _padded(self, rows, temperature)
        return _one_by_one(plain_forward, self, rows, temperature)

    causal.forward = MethodType(forward, causal)


def _longest_row(rows: Rows) -> int:
    return max(len(p) + len(c) for p, c in zip(rows.prompts, rows.completions, strict=True))


def _packed(causal: PreTrainedModel, rows: Rows, temperature: float) -> TokenLogps:
    """Figures with each prompt computed once."""
    device = causal.device
    # Prompts are padded on the left and completions on the right, which is how `shared_prefix` takes them.
    prompts = [torch.tensor(list(reversed(prompt))) for prompt in rows.prompts]
    completions = [torch.tensor(completion) for completion in rows.completions]
    ids = torch.cat([_pad(prompts, 0).flip(1), _pad(completions, 0)], 1)  # [B, P + C]
    mask = torch.cat([_pad([torch.ones_like(p) for p in prompts], 0).flip(1), _mask(completions)], 1)
    width = max(rows.lengths)
    logps, entropies = shared_prefix.completion_logps(causal, ids.to(device), mask.to(device), width, temperature)
    counted = mask[:, -width:].bool().to(device)
    return TokenLogps(logps[counted], entropies[counted])


def _padded(causal: PreTrainedModel, rows: Rows, temperature: float) -> TokenLogps:
    """Figures of rows that run together, padded on the right."""
    device = causal.device
    whole = [torch.tensor([*p, *c]) for p, c in zip(rows.prompts, rows.completions, strict=True)]
    output = causal.base_model(
        input_ids=_pad(whole, 0).to(device), attention_mask=_mask(whole).to(device), use_cache=False
    )
    states = []
    for state, prompt, length in zip(output.last_hidden_state, rows.prompts, rows.lengths, strict=True):
        first = len(prompt) - 1  # the state of a prompt's last token predicts the completion's first one
        states.append(state[first : first + length])
    targets = torch.cat([torch.tensor(completion) for completion in rows.completions]).to(device)
    return TokenLogps(*shared_prefix.project(causal, torch.cat(states), targets, temperature))


def _one_by_one(forward: Forward, causal: PreTrainedModel, rows: Rows, temperature: float) -> TokenLogps:
    """Figures of each row alone; a row is run again in the backward pass, so that one is in memory at a time."""
    keeps_logits = "logits_to_keep" in accepted(causal)
    logps = []
    entropies = []
    for prompt, completion in zip(rows.prompts, rows.completions, strict=True):
        ids = torch.tensor([[*prompt, *completion]], device=causal.device)
        row: tuple[Tensor, Tensor] = checkpoint(
            _logps_of_row, forward, ids, len(completion), temperature, keeps_logits, use_reentrant=False
        )
        logps.append(row[0])
        entropies.append(row[1])
    return TokenLogps(torch.cat(logps), torch.cat(entropies))


def _logps_of_row(
    forward: Forward, ids: Tensor, length: int, temperature: float, keeps_logits: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies, [C] each, of the last C = `length` tokens of a row [1, L]."""
    # Logits of the prompt are the largest part of a long one's memory, so they are not made if possible.
    keep = {"logits_to_keep": length + 1} if keeps_logits else {}
    logits = forward(input_ids=ids, use_cache=False, **keep).logits[0, -length - 1 : -1].float() / temperature  # [C, V]
    distribution = logits.log_softmax(-1)
    chosen = distribution.gather(-1, ids[0, -length:, None])[:, 0]
    return chosen, -(distribution.exp() * distribution).sum(-1)


def _pad(rows: Sequence[Tensor], value: int) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_value=value)


def _mask(rows: Sequence[Tensor]) -> Tensor:
    return _pad([torch.ones_like(row) for row in rows], 0)
