"""What an attack spends, and the end of what it may."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from safereason.engines.base import Completion, Conversation, Engine, Likelihood, OnFinish, Sampling


class SpentError(Exception):
    """The attack has asked all that it may; the best test case so far is what it found."""


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

    def ask(self, queries: int) -> None:
        """Counts queries to the target that are about to be asked.

        Raises:
            SpentError: They would be more than may be; none of them is counted.
        """
        if self.most is not None and self.queries + queries > self.most:
            raise SpentError
        self.queries += queries

    def took(self, read: int, written: int) -> None:
        """Counts tokens."""
        self.read += read
        self.written += written


class Metered:
    """An engine whose use a meter counts."""

    def __init__(self, engine: Engine, meter: Meter, *, is_target: bool) -> None:
        self.engine = engine
        self.name = engine.name
        self._meter = meter
        self._is_target = is_target

    def generate(
        self, conversations: Sequence[Conversation], sampling: Sampling, *, n: int = 1, seed: int = 0,
        stop: Sequence[str] = (), prefix: str = "", done: Collection[int] = (), on_finish: OnFinish | None = None,
        choices: int = 0, alone: bool = False,
    ) -> list[list[Completion]]:  # fmt: skip
        """See `Engine.generate`.

        Raises:
            SpentError: It asks for more than may be asked of the target.
        """
        if self._is_target:
            self._meter.ask(n * (len(conversations) - len(set(done))))
        found = self.engine.generate(conversations, sampling, n=n, seed=seed, stop=stop, prefix=prefix, done=done,
                                     on_finish=on_finish, choices=choices, alone=alone)  # fmt: skip
        for completion in (completion for row in found for completion in row):
            if completion.usage is not None:
                self._meter.took(completion.usage.prompt, completion.usage.completion)
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
