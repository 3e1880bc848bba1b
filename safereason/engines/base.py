"""The contract every engine keeps."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from safereason.recipe.schema import Sampling
from safereason.text import chat, reasoning
from safereason.text.chat import Conversation, Message

__all__ = [
    "Completion",
    "Conversation",
    "Engine",
    "Likelihood",
    "Message",
    "OnFinish",
    "Sampling",
    "TokenChoice",
    "Usage",
    "generation_prefix",
    "request_seed",
]


@dataclass(frozen=True)
class TokenChoice:
    """One token of a completion, and what might have stood in its place."""

    text: str
    """The token by itself; what stands in for a part of a character differs from engine to engine."""
    likeliest: tuple[tuple[str, float], ...]
    """Tokens with their natural log-probabilities before penalty, temperature and truncation, the written one too."""


@dataclass(frozen=True)
class Usage:
    """Tokens that a completion took, as its engine counts and a provider bills them."""

    prompt: int
    """Tokens read."""
    completion: int
    """Tokens written, reasoning and the end-of-turn token included."""


@dataclass(frozen=True)
class Completion:
    """One generated text."""

    text: str
    """What the model wrote, special tokens left out; a generation prefix is not part of it."""
    token_ids: tuple[int, ...]
    """What the model wrote, the end-of-turn token included; empty where a server does not say."""
    finish_reason: Literal["stop", "length", "error", "filtered"]
    """`stop` at an end-of-turn token or stop text, `length` at the token limit, `error` where none could be had,
    `filtered` where the provider's filter refused the prompt or cut the text off."""
    prefix: str = ""
    """What it goes on from: the generation prefix, after the reasoning that the chat template opened, if it did.

    Of a server, whose template is not known, the generation prefix alone."""
    error: str = ""
    """Why, where it is `missing`: a server failed, or the prompt is longer than what the model reads."""
    choices: tuple[TokenChoice, ...] = ()
    """Its tokens with their likeliest alternatives, where these were asked for."""
    usage: Usage | None = None
    """What it took; None where a server does not say."""
    lasts: bool = False
    """Whether an error will come again, as where a prompt is longer than what the model reads."""

    @property
    def missing(self) -> bool:
        """Whether there is no completion of the model's: neither an answer nor a refusal."""
        return self.finish_reason in ("error", "filtered")

    @property
    def failed(self) -> bool:
        """Whether none could be had, and another try may bring one."""
        return self.finish_reason == "error" and not self.lasts

    @property
    def full_text(self) -> str:
        """Prefix and text together: what format checks see at evaluation."""
        return self.prefix + self.text

    @cached_property
    def parts(self) -> reasoning.Reasoned:
        """Reasoning and answer apart, split as evaluation does."""
        return reasoning.split(self.full_text)


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of one continuation."""

    token_logprobs: tuple[float, ...]
    """Natural log-probability of each of its tokens."""
    is_greedy: bool
    """Whether each token was the likeliest one."""

    @property
    def total(self) -> float:
        """Log-probability of the whole continuation."""
        return sum(self.token_logprobs)


OnFinish = Callable[[int, int, Completion], None]
"""Called as completions end, in any order: conversation index, number of the completion (0 … n-1), completion."""


class Engine(Protocol):
    """Turns conversations into completions, in order."""

    name: str

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        *,
        n: int = 1,
        seed: int = 0,
        stop: Sequence[str] = (),
        prefix: str = "",
        done: Collection[int] = (),
        on_finish: OnFinish | None = None,
        choices: int = 0,
        alone: bool = False,
    ) -> list[list[Completion]]:
        """Draws `n` completions for each conversation.

        Args:
            conversations: What to answer.
            sampling: How to draw.
            n: Completions a conversation.
            seed: The same seed, conversation and n give the same completions.
            stop: Texts that end a completion; they are cut off.
            prefix: Text the completion goes on from, after the generation prompt.
            done: Indices whose completions the caller already holds; their entry in the result is empty. Batches are
                laid out as if they were not done, so that a resumed call gives the very same completions.
            on_finish: Called with each completion as it ends, so that it can be recorded at once.
            choices: Likeliest tokens to report at each position, at most 20; 0 reports none.
            alone: Each conversation draws what it would draw as the only one, whichever stand beside it.

        Returns:
            `n` completions for each conversation, in the order given.
        """
        ...

    def loglikelihood(
        self, conversations: Sequence[Conversation], continuations: Sequence[str], *, prefix: str = ""
    ) -> list[Likelihood]:
        """Log-likelihood of `continuations[i]` as what the model writes after `conversations[i]` and `prefix`."""
        ...


def generation_prefix(engine: Engine, prefix: str) -> str:
    """The prefix after the reasoning that the engine's chat template opens, if it does; it renders the same prompts.

    A server's template is not known: there it is the prefix itself.
    """
    tokenizer = getattr(engine, "tokenizer", None)
    return prefix if tokenizer is None else chat.opening(tokenizer, prefix)


def request_seed(seed: int, conversation: int, number: int) -> int:
    """The seed one completion is asked for with, 31 bits: completions of the same conversation differ."""
    key = hashlib.sha256(f"{seed}/{conversation}/{number}".encode()).digest()
    return int.from_bytes(key[:4], "big") >> 1
