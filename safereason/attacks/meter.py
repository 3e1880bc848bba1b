"""A meter of what an attack spends, and the engine wrapper that feeds it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from safereason.engines.base import (
    Completion,
    Conversation,
    Engine,
    GenerateOptions,
    Likelihood,
    LocalEngine,
    Sampling,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SpentError(Exception):
    """The query budget is spent. The best test case so far is the result of the search."""


class LostError(Exception):
    """All requests of a call to a model or a judge failed, after the engine's own retries; the message says why."""


@dataclass
class Meter:
    """Counter of one search's use of models. A query is one completion, or one text that is scored."""

    max_queries: int | None = None
    """Budget of queries to the target model; None sets no limit."""
    queries: int = 0
    """Queries to the target model so far."""
    prompt_tokens: int = 0
    """Prompt tokens of all models, as far as their engines report them."""
    completion_tokens: int = 0
    """Completion tokens of all models, as far as their engines report them."""
    failed: int = 0
    """Failed completions and verdicts. A repeated search may get them, so the result is not final."""
    failure: str = ""
    """Reason of the last failure."""
    unscored: Counter[str] = field(default_factory=Counter)
    """Reasons why answers have no score, with their counts."""
    gives_up: bool = False
    """Whether the search ends when all requests of one call fail."""

    @property
    def queries_left(self) -> int | None:
        """Queries that the budget still allows; None without a limit."""
        if self.max_queries is None:
            return None
        return self.max_queries - self.queries

    def charge(self, queries: int) -> None:
        """Counts queries to the target model. Call it before the queries are sent.

        Raises:
            SpentError: They exceed the budget; none of them is counted.
        """
        # The counter stays as it is on an error, so that a smaller request may still use the rest of the budget.
        if self.max_queries is not None and self.queries + queries > self.max_queries:
            raise SpentError
        self.queries += queries

    def count_failures(self, reasons: Sequence[str], requested: int) -> None:
        """Counts the failures of one call.

        Args:
            reasons: The reason of each failure.
            requested: All requests of the call, failed or not.

        Raises:
            LostError: All of them failed, and the search is one that gives up.
        """
        if not reasons:
            return
        self.failed += len(reasons)
        self.failure = reasons[-1]
        # A single success shows that the server is up, and then the search goes on with fewer answers.
        if self.gives_up and len(reasons) == requested:
            raise LostError(self.failure)

    def count_tokens(self, prompt: int, completion: int) -> None:
        """Adds prompt tokens and completion tokens."""
        self.prompt_tokens += prompt
        self.completion_tokens += completion


class Metered:
    """An engine whose use a meter counts."""

    def __init__(self, engine: Engine, meter: Meter, *, is_target: bool, counts_tokens: bool = True) -> None:
        """Wraps an engine.

        Args:
            engine: The engine that does the work.
            meter: The counter.
            is_target: Whether this is the target model, whose queries have a budget.
            counts_tokens: Whether tokens of completions count, too.
        """
        self.engine = engine
        self.name = engine.name
        self._meter = meter
        self._is_target = is_target
        self._counts_tokens = counts_tokens

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase | None":
        """The tokenizer of the engine inside."""
        return self.engine.tokenizer

    @property
    def local(self) -> LocalEngine | None:
        """The engine inside, where its weights are in this process: they are read without being counted."""
        return self.engine.local

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        options: GenerateOptions = GenerateOptions(),
    ) -> list[list[Completion]]:
        """See `Engine.generate`.

        Raises:
            SpentError: The completions exceed the target model's query budget.
            LostError: All completions failed.
        """
        if self._is_target:
            # Completions that the caller already has cost no query.
            self._meter.charge(options.n * (len(conversations) - len(set(options.done))))
        completions_by_conversation = self.engine.generate(conversations, sampling, options)
        self._count_completions(completions_by_conversation)
        return completions_by_conversation

    def _count_completions(self, completions_by_conversation: Sequence[Sequence[Completion]]) -> None:
        """Counts tokens and failures of one call."""
        total = 0
        failures: list[str] = []
        for completions in completions_by_conversation:
            total += len(completions)
            for completion in completions:
                if completion.usage is not None and self._counts_tokens:
                    self._meter.count_tokens(completion.usage.prompt, completion.usage.completion)
                if completion.failed:
                    failures.append(completion.error)
        # Last, because it may raise: tokens of a lost call are spent all the same.
        self._meter.count_failures(failures, total)

    def loglikelihood(
        self, conversations: Sequence[Conversation], continuations: Sequence[str], *, prefix: str = ""
    ) -> list[Likelihood]:
        """See `Engine.loglikelihood`.

        Raises:
            SpentError: The texts exceed the target model's query budget.
        """
        if self._is_target:
            self._meter.charge(len(conversations))
        likelihoods = self.engine.loglikelihood(conversations, continuations, prefix=prefix)
        # Engines do not report the prompt's tokens here, so only those of the continuations count.
        scored_tokens = sum(len(likelihood.token_logprobs) for likelihood in likelihoods)
        self._meter.count_tokens(scored_tokens, 0)
        return likelihoods
