"""The contract of engines: completions, likelihoods and the protocol `Engine`."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

from safereason.engines.architectures import CausalModel
from safereason.errors import InputError
from safereason.recipe.schema import Sampling
from safereason.text import chat, reasoning
from safereason.text.chat import Conversation, Message

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Completion",
    "Conversation",
    "Engine",
    "GenerateOptions",
    "Likelihood",
    "LocalEngine",
    "Message",
    "OnFinish",
    "Sampling",
    "TokenChoice",
    "TokenizerEngine",
    "Usage",
    "generation_prefix",
    "in_order",
    "request_seed",
    "require_local",
    "text_before_stop",
]


FinishReason = Literal["stop", "length", "error", "filtered"]
"""`stop` at an end-of-turn token or stop text, `length` at the token limit, `error` without a completion, `filtered`
where the provider's filter refused the prompt or cut the text off."""


@dataclass(frozen=True)
class TokenChoice:
    """One token of a completion, with its likeliest alternatives."""

    text: str
    """The token by itself; a part of a character is spelt in each engine's own way."""
    likeliest: tuple[tuple[str, float], ...]
    """Tokens with their natural log-probabilities before penalty, temperature and truncation, the drawn one too."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a completion, as its engine counts and a provider bills them."""

    prompt: int
    """Tokens of the prompt that were read, chat template included."""
    completion: int
    """Tokens generated, reasoning and the end-of-turn token included."""


@dataclass(frozen=True)
class Completion:
    """One text that a model generated, with its token ids and the reason why it ended."""

    text: str
    """The model's text without special tokens and without the generation prefix."""
    token_ids: tuple[int, ...]
    """The model's tokens, the end-of-turn token included; empty where a server does not give them."""
    finish_reason: FinishReason
    prefix: str = ""
    """The text before it in the model's turn: the generation prefix, after the reasoning that the chat template opens.

    Of a server, whose template is not known, the generation prefix alone."""
    error: str = ""
    """The reason where it is `missing`: a server failed, or the prompt is longer than the model reads."""
    choices: tuple[TokenChoice, ...] = ()
    """Tokens with their likeliest alternatives, where `choices` requests them."""
    usage: Usage | None = None
    """Tokens read and generated; None where a server does not count them."""
    lasts: bool = False
    """Whether the error will come again, as of a prompt that is longer than the model reads."""

    @property
    def missing(self) -> bool:
        """Whether there is no completion: neither an answer nor a refusal."""
        return self.finish_reason in ("error", "filtered")

    @property
    def failed(self) -> bool:
        """Whether there is no completion, and another try may bring one."""
        return self.finish_reason == "error" and not self.lasts

    @property
    def full_text(self) -> str:
        """Prefix and text together, as format checks see it at evaluation."""
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


CompletionIndex = tuple[int, int]
"""One completion of a call: the index of its conversation, and its number among that one's completions."""
OnFinish = Callable[[int, int, Completion], None]
"""Called as completions end, in any order: conversation index, number of the completion (0 … n-1), completion."""


@dataclass(frozen=True)
class GenerateOptions:
    """The options of one call of `Engine.generate`, beside its sampling settings."""

    n: int = 1
    """Completions a conversation."""
    seed: int = 0
    """The same seed, conversation and n give the same completions."""
    stop: Sequence[str] = ()
    """Texts that end a completion, none of them empty; they are cut off."""
    prefix: str = ""
    """Text the completion goes on from, after the generation prompt."""
    done: Collection[int] = ()
    """Indices whose completions the caller already holds; their entry in the result is empty.

    Batches are laid out as if they were not done, so that a resumed call gives the very same completions.
    """
    on_finish: OnFinish | None = None
    """Called with each completion as it ends, so that it can be recorded at once."""
    choices: int = 0
    """Likeliest tokens to report at each position, at most 20; 0 reports none."""
    alone: bool = False
    """Whether each conversation draws what it would draw as the only one, independent of its neighbours."""


class Engine(Protocol):
    """A model that turns conversations into completions, in order."""

    name: str

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase | None":
        """The model's tokenizer; None for a server, which does not show its own."""
        ...

    @property
    def local(self) -> "LocalEngine | None":
        """The engine itself, or the one that it wraps, where its weights are in this process; else None."""
        ...

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        options: GenerateOptions = GenerateOptions(),
    ) -> list[list[Completion]]:
        """Draws `options.n` completions for each conversation.

        Args:
            conversations: Conversations to complete.
            sampling: Sampling settings.
            options: How many completions are drawn, from which seed, and what is reported of them.

        Returns:
            `options.n` completions for each conversation, in the order given.
        """
        ...

    def loglikelihood(
        self, conversations: Sequence[Conversation], continuations: Sequence[str], *, prefix: str = ""
    ) -> list[Likelihood]:
        """Log-likelihood of `continuations[i]` as what the model writes after `conversations[i]` and `prefix`."""
        ...


class TokenizerEngine(Engine, Protocol):
    """An engine whose tokenizer is in this process: of transformers or vLLM."""

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Renders prompts and decodes completions."""
        ...

    def room(self, conversation: Conversation) -> int:
        """Tokens that the model can write after a conversation; none, or fewer, where it is too long to be read."""
        ...

    def batches(
        self, conversations: Sequence[Conversation], sampling: Sampling, options: GenerateOptions
    ) -> list[list[int]]:
        """Indices of the conversations that `generate` computes together, a list a batch; arguments as there.

        Batches of which all is done are left out, and so are prompts that leave no room for a completion. The same
        arguments give the same batches in every process, whatever memory it has.
        """
        ...


class LocalEngine(TokenizerEngine, Protocol):
    """An engine whose weights are in this process, too: of transformers."""

    @property
    def model(self) -> CausalModel:
        """The model, on the device and in the dtype that it has."""
        ...

    def last_states(self, conversations: Sequence[Conversation], *, prefix: str = "") -> "Tensor":
        """[N, H], fp32 on the CPU: the final layer's state, after its norm, at the last token of each prompt.

        Raises:
            InputError: A prompt is longer than what the model reads.
        """
        ...


def require_local(engine: Engine, who: str) -> LocalEngine:
    """The engine whose weights are in this process: this one, or the one that it wraps.

    Args:
        engine: Any engine.
        who: What needs the weights, for the message, such as `attack gcg`.

    Raises:
        InputError: Its weights are not accessible.
    """
    local = engine.local
    if local is None:
        raise InputError(f"{who}: needs the weights, so a model of transformers; {engine.name} does not show them")
    return local


def generation_prefix(engine: Engine, prefix: str) -> str:
    """The prefix after the reasoning that the engine's chat template opens, if it does; it renders the same prompts.

    A server's template is not known: there it is the prefix itself.
    """
    if engine.tokenizer is None:
        return prefix
    return chat.opening(engine.tokenizer, prefix)


def in_order(
    finished: Mapping[CompletionIndex, Completion], conversations: int, n: int, done: Collection[int]
) -> list[list[Completion]]:
    """The completions of a call as `Engine.generate` returns them.

    Args:
        finished: Completions by index.
        conversations: How many the call was given.
        n: Completions a conversation.
        done: Indices of conversations whose completions the caller already has; their entry is empty.
    """
    ordered: list[list[Completion]] = []
    for index in range(conversations):
        if index in done:
            ordered.append([])
        else:
            ordered.append([finished[index, number] for number in range(n)])
    return ordered


def request_seed(seed: int, conversation: int, number: int) -> int:
    """The seed of one completion's request, 31 bits: completions of the same conversation differ."""
    # Hashed and not added up, so that seed 1 and seed 2 share no completions; servers take signed 32-bit seeds.
    key = hashlib.sha256(f"{seed}/{conversation}/{number}".encode()).digest()
    return int.from_bytes(key[:4], "big") >> 1


def text_before_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop texts in it; all of it where it holds none."""
    end = len(text)
    for stop_text in stop:
        position = text.find(stop_text)
        if position >= 0:
            end = min(end, position)
    return text[:end]
