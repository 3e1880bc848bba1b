"""Embeddings that no token has, put after the user's text and moved until the model writes what it is to write."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from safereason.engines.states import accepted, empty_cache
from safereason.engines.transformers import TransformersEngine, end_of_turn_ids
from safereason.errors import InputError
from safereason.text import chat

_MARK = "[[soft prompt]]"
"""Holds the place of the embeddings while the chat template is applied."""


@dataclass(frozen=True)
class Layout:
    """Token ids around a soft prompt."""

    before: list[int]
    """Up to the end of the user's text."""
    after: list[int]
    """From there to where the model writes."""


def layout(engine: TransformersEngine, prompt: str, prefix: str) -> Layout:
    """The token ids on either side of a soft prompt that follows the user's text.

    Args:
        engine: Whose chat template is applied.
        prompt: What the user says.
        prefix: What the model goes on from.

    Raises:
        InputError: The chat template is missing, or does not keep the user's text as it is.
    """
    text = chat.rendered(engine.tokenizer, chat.user(f"{prompt}{_MARK}"), prefix)
    if text.count(_MARK) != 1:
        raise InputError(f"{engine.name}: its chat template changes what the user says; no soft prompt can follow it")
    before, after = (list(engine.tokenizer(half, add_special_tokens=False)["input_ids"]) for half in text.split(_MARK))
    return Layout(before, after)


class SoftPrompt:
    """A soft prompt of a model, and the best one that was seen."""

    def __init__(self, engine: TransformersEngine, tokens: int) -> None:
        self.engine = engine
        self.model = engine.model
        self._embed = engine.model.get_input_embeddings()
        start = engine.tokenizer(" !", add_special_tokens=False)["input_ids"][-1:]
        self.start = self._embedded(start * tokens).float()  # [K, E]
        self.best = self.start
        """[K, E]"""
        self.loss: float | None = None
        """Of the best; None before any was measured."""

    def loss_of(self, soft: Tensor, around: Layout, target: list[int]) -> Tensor:
        """Mean cross entropy of the target's tokens after a soft prompt [K, E]."""
        parts = [self._embedded(around.before), soft.to(self.model.dtype), self._embedded([*around.after, *target])]
        inputs = torch.cat(parts)[None]  # [1, N, E]
        logits = self.model(inputs_embeds=inputs, use_cache=False, **self._last(len(target) + 1)).logits
        wanted = torch.tensor(target, device=logits.device)
        return cross_entropy(logits[0, -len(target) - 1 : -1].float(), wanted)  # of [T, V] and [T]

    def _last(self, tokens: int) -> dict[str, int]:
        """Asks for the logits of the last tokens alone, where the model can be asked so."""
        return {"logits_to_keep": tokens} if "logits_to_keep" in accepted(self.model) else {}

    def optimise(
        self, around: Layout, target: list[int], rate: float, optimizer: Literal["sign", "adam"]
    ) -> Iterator[float]:
        """Moves the embeddings against the gradient without end; the loss of each that it comes to, the start first."""
        soft = self.start.clone().requires_grad_()
        adam = torch.optim.Adam([soft], lr=rate)
        while True:
            with _frozen(self.model):
                loss = self.loss_of(soft, around, target)
                [soft.grad] = torch.autograd.grad(loss, [soft])
            if self.loss is None or loss.item() < self.loss:
                self.best, self.loss = soft.detach().clone(), loss.item()
            yield loss.item()
            if optimizer == "adam":
                adam.step()
            else:
                soft.data -= rate * soft.grad.sign()

    @torch.inference_mode()
    def completion(self, around: Layout, max_new_tokens: int) -> tuple[str, int]:
        """What the model writes greedily after the best soft prompt, and how many tokens that took."""
        parts = [self._embedded(around.before), self.best.to(self.model.dtype), self._embedded(around.after)]
        inputs = torch.cat(parts)[None]  # [1, N, E]
        ends = end_of_turn_ids(self.model, self.engine.tokenizer)
        cache = empty_cache(self.model)
        written: list[int] = []
        with _frozen(self.model):
            while len(written) < max_new_tokens and not (written and written[-1] in ends):
                output = self.model(inputs_embeds=inputs, use_cache=bool(cache), **cache, **self._last(1))
                written.append(int(output.logits[0, -1].argmax()))
                following = self._embedded(written[-1:])[None]  # [1, 1, E]
                inputs = following if cache else torch.cat([inputs, following], dim=1)
        return chat.decoded(self.engine.tokenizer, written), len(written)

    def norms(self) -> dict[str, float]:
        """Mean length of the best soft prompt's embeddings, of their way from the start, and of the vocabulary's."""
        vocabulary = self._embed.weight.detach().float()  # [V, E]
        lengths = {"norm": self.best, "moved": self.best - self.start, "vocabulary_norm": vocabulary}
        return {name: float(vectors.norm(dim=-1).mean()) for name, vectors in lengths.items()}

    def _embedded(self, ids: list[int]) -> Tensor:
        """Of token ids: [N, E]."""
        with torch.no_grad():
            vectors: Tensor = self._embed(torch.tensor(ids, dtype=torch.long, device=self.model.device))
        return vectors


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """The model as it is when it answers, without dropout."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
