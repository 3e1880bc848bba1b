"""What an attack spends, and the end of what it may."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from safereason.engines.base import Completion, Conversation, Engine, Likelihood, OnFinish, Sampling


class SpentError(Exception):
    """The attack has asked all that it may; the best test case so far is what it found."""


class LostError(Exception):
    """Whoever an attack needs did not answer at all, for as long as a server is waited for; the message says why."""


@dataclass
class Meter:
    """Counts what models were asked. A query is one completion, or one text that is scored."""

    most: int | None = None
    """Queries to the target that may be asked; None sets no bound."""
    queries: int = 0
    """To the target."""
    read: int = 0
    """Tokens of all models' prompts, as far as their engines say."""
    written: int = 0
    """Tokens that all models wrote, as far as their engines say."""
    failed: int = 0
    """Completions and verdicts that could not be had, so that another search may find more."""
    failure: str = ""
    """Why the last of them could not."""
    unscored: Counter[str] = field(default_factory=Counter)
    """Why answers have no score, and how often."""
    gives_up: bool = False
    """Whether the search ends where nothing that was asked for together could be had."""

    def ask(self, queries: int) -> None:
        """Counts queries to the target that are about to be asked.

        Raises:
            SpentError: They would be more than may be; none of them is counted.
        """
        if self.most is not None and self.queries + queries > self.most:
            raise SpentError
        self.queries += queries

    def miss(self, reasons: Sequence[str], asked: int) -> None:
        """Counts what could not be had, with the reasons, of what was asked for together.

        Raises:
            LostError: It was all of that, and the search gives up then.
        """
        if not reasons:
            return
        self.failed += len(reasons)
        self.failure = reasons[-1]
        if self.gives_up and len(reasons) == asked:
            raise LostError(self.failure)

    def took(self, read: int, written: int) -> None:
        """Counts tokens."""
        self.read += read
        self.written += written


class Metered:
    """An engine whose use a meter counts."""

    def __init__(self, engine: Engine, meter: Meter, *, is_target: bool, counts_tokens: bool = True) -> None:
        self.engine = engine
        self.name = engine.name
        self._meter = meter
        self._is_target = is_target
        self._counts_tokens = counts_tokens

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
        """See `Engine.generate`.

        Raises:
            SpentError: It asks for more than may be asked of the target.
            LostError: None of it could be had.
        """
        if self._is_target:
            self._meter.ask(n * (len(conversations) - len(set(done))))
        found = self.engine.generate(
            conversations,
            sampling,
            n=n,
            seed=seed,
            stop=stop,
            prefix=prefix,
            done=done,
            on_finish=on_finish,
            choices=choices,
            alone=alone,
        )
        every = [completion for row in found for completion in row]
        for completion in every:
            if completion.usage is not None and self._counts_tokens:
                self._meter.took(completion.usage.prompt, completion.usage.completion)
        self._meter.miss([completion.error for completion in every if completion.failed], len(every))
        return found

    def loglikelihood(
        self, conversations: Sequence[Conversation], continuations: Sequence[str], *, prefix: str = ""
    ) -> list[Likelihood]:
        """See `Engine.loglikelihood`.

        Raises:
            SpentError: It asks for more than may be asked of the target.
        """
        if self._is_target:
            self._meter.ask(len(conversations))
        found = self.engine.loglikelihood(conversations, continuations, prefix=prefix)
        # What an engine reads of a prompt it does not say here; of the continuation it does.
        self._meter.took(sum(len(likelihood.token_logprobs) for likelihood in found), 0)
        return found


def unwrapped(engine: Engine) -> Any:
    """The engine that a meter counts, or the engine itself."""
    return engine.engine if isinstance(engine, Metered) else engine
