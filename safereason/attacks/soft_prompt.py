"""Soft prompts: embeddings after the user's text, optimised until the model is likely to write a target text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from safereason.engines.base import LocalEngine
from safereason.engines.states import accepted, empty_cache, evaluation_mode
from safereason.engines.transformers import end_of_turn_ids
from safereason.errors import InputError
from safereason.text import chat

_MARK = "[[soft prompt]]"
"""Stand-in for the embeddings while the chat template is applied."""


@dataclass(frozen=True)
class PromptLayout:
    """Token ids around a soft prompt."""

    before: list[int]
    """Ids up to the end of the user's text."""
    after: list[int]
    """Ids from there to the beginning of the completion."""


def build_layout(engine: LocalEngine, prompt: str, prefix: str) -> PromptLayout:
    """The token ids on either side of a soft prompt that follows the user's text.

    Args:
        engine: The model, whose chat template is applied.
        prompt: The user's text.
        prefix: Beginning of the completion.

    Raises:
        InputError: The chat template is missing, or does not keep the user's text as it is.
    """
    text = chat.rendered(engine.tokenizer, chat.user(f"{prompt}{_MARK}"), prefix)
    if text.count(_MARK) != 1:
        raise InputError(f"{engine.name}: its chat template changes what the user says; no soft prompt can follow it")
    # Each half is tokenized by itself, so that no token spans the embeddings.
    before, after = text.split(_MARK)
    return PromptLayout(chat.ids_of(engine.tokenizer, before), chat.ids_of(engine.tokenizer, after))


class SoftPrompt:
    """A soft prompt of a model, with the best embeddings so far."""

    def __init__(self, engine: LocalEngine, tokens: int) -> None:
        """Initialises all vectors with the embedding of ` !`."""
        self.engine = engine
        self.model = engine.model
        self._embed = engine.model.get_input_embeddings()
        start_id = engine.tokenizer(" !", add_special_tokens=False)["input_ids"][-1:]
        # fp32, because steps of 0.01 are lost in the rounding of half precision.
        self.start = self._embed_ids(start_id * tokens).float()  # [K, E]
        self.best = self.start
        """Embeddings [K, E] with the least loss so far, fp32."""
        self.loss: float | None = None
        """Loss of the best; None before the first measurement."""

    def loss_of(self, soft: Tensor, layout: PromptLayout, target_ids: list[int]) -> Tensor:
        """Mean cross entropy of the target text's tokens after a soft prompt [K, E]."""
        after = self._embed_ids([*layout.after, *target_ids])
        parts = [self._embed_ids(layout.before), soft.to(self.model.dtype), after]
        inputs = torch.cat(parts)[None]  # [1, N, E]
        logits = self.model(inputs_embeds=inputs, use_cache=False, **self._keep_logits(len(target_ids) + 1)).logits
        expected = torch.tensor(target_ids, device=logits.device)
        # A logit predicts the next token, so the target text's logits begin one position before it.
        return cross_entropy(logits[0, -len(target_ids) - 1 : -1].float(), expected)  # of [T, V] and [T]

    def _keep_logits(self, tokens: int) -> dict[str, int]:
        """The argument that limits logits to the last tokens; empty for a model without it."""
        if "logits_to_keep" in accepted(self.model):
            return {"logits_to_keep": tokens}
        return {}

    def optimise(
        self, layout: PromptLayout, target_ids: list[int], rate: float, optimizer: Literal["sign", "adam"]
    ) -> Iterator[float]:
        """Takes gradient steps without end and yields the loss before each of them, that of the start first."""
        soft = self.start.clone().requires_grad_()
        # Made in both cases, since it costs nothing before its first step.
        adam = torch.optim.Adam([soft], lr=rate)
        while True:
            # The mode is restored before each yield: the caller may use the model between two steps.
            with evaluation_mode(self.model):
                loss = self.loss_of(soft, layout, target_ids)
                # Gradients of the embeddings alone, so that the model's own weights get none.
                [soft.grad] = torch.autograd.grad(loss, [soft])
            if self.loss is None or loss.item() < self.loss:
                self.best = soft.detach().clone()
                self.loss = loss.item()
            yield loss.item()
            if optimizer == "adam":
                adam.step()
            else:
                soft.data -= rate * soft.grad.sign()

    @torch.inference_mode()
    def completion(self, layout: PromptLayout, max_new_tokens: int) -> tuple[str, int]:
        """The model's greedy completion after the best soft prompt, and its number of tokens."""
        parts = [self._embed_ids(layout.before), self.best.to(self.model.dtype), self._embed_ids(layout.after)]
        inputs = torch.cat(parts)[None]  # [1, N, E]
        ends = end_of_turn_ids(self.model, self.engine.tokenizer)
        cache = empty_cache(self.model)
        written: list[int] = []
        with evaluation_mode(self.model):
            while len(written) < max_new_tokens and not (written and written[-1] in ends):
                output = self.model(inputs_embeds=inputs, use_cache=bool(cache), **cache, **self._keep_logits(1))
                written.append(int(output.logits[0, -1].argmax()))
                next_embedding = self._embed_ids(written[-1:])[None]  # [1, 1, E]
                # Without a cache, the model reads the whole text again for each token.
                inputs = next_embedding if cache else torch.cat([inputs, next_embedding], dim=1)
        return chat.decoded(self.engine.tokenizer, written), len(written)

    def norms(self) -> dict[str, float]:
        """Mean norms of the best embeddings, of their distance from the start, and of the vocabulary's embeddings.

        They show whether the soft prompt has left the region of real tokens.
        """
        vocabulary = self._embed.weight.detach().float()  # [V, E]
        return {
            "norm": _mean_norm(self.best),
            "moved": _mean_norm(self.best - self.start),
            "vocabulary_norm": _mean_norm(vocabulary),
        }

    def _embed_ids(self, ids: list[int]) -> Tensor:
        """The embeddings [N, E] of token ids."""
        with torch.no_grad():
            vectors: Tensor = self._embed(torch.tensor(ids, dtype=torch.long, device=self.model.device))
        return vectors


def _mean_norm(vectors: Tensor) -> float:
    """Mean Euclidean norm of vectors [N, E]."""
    return float(vectors.norm(dim=-1).mean())
