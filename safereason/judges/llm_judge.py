"""An LLM as a judge: batching, the cache of verdicts and the rules for missing verdicts, for every prompt alike."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from safereason.engines import weights
from safereason.engines.base import Completion, Conversation, Engine, GenerateOptions, Sampling
from safereason.engines.result_cache import cache_key
from safereason.engines.server import shown_address
from safereason.engines.spec import ModelSpec
from safereason.judges.base import Exchange, Measure, Verdict
from safereason.judges.cache import VerdictCache

REPLY_END = 100
"""Characters from the end of a reply that a message quotes."""


class JudgePrompt(Protocol):
    """The prompt of one judge, and how its replies are read."""

    @property
    def name(self) -> str:
        """The judge's name."""
        ...

    @property
    def measure(self) -> Measure:
        """See `Judge.measure`."""
        ...

    @property
    def sampling(self) -> Sampling:
        """Sampling of its replies."""
        ...

    @property
    def choices(self) -> int:
        """Likeliest tokens that it reads at each position of a reply."""
        ...

    @property
    def reading(self) -> str:
        """Everything that its reading of replies depends on, as a part of the cache's key."""
        ...

    def build(self, exchange: Exchange) -> Conversation | Verdict:
        """The conversation that a model continues with its verdict, or the verdict where none is needed."""
        ...

    def read(self, completion: Completion) -> Verdict:
        """The verdict in a reply."""
        ...


class LLMJudge:
    """A judge that has a model reply to a prompt, once for equal conversations; the verdicts are kept on disk."""

    def __init__(self, prompt: JudgePrompt, engine: Engine, model: str, cache: VerdictCache | None = None) -> None:
        """Takes an engine that is open.

        Args:
            prompt: How conversations are built and replies read.
            engine: The model that replies.
            model: Its part of the cache's key, as `identity` gives it.
            cache: A cache to use instead of the one in the cache folder.
        """
        self.prompt = prompt
        self.name = prompt.name
        self.measure = prompt.measure
        self.engine = engine
        await_server(engine)
        self._cache = cache or VerdictCache()
        # A change of any of these may change the verdict, and so needs another key.
        settings = prompt.sampling.model_dump_json()
        self._key_parts = (prompt.name, prompt.measure, model, settings, prompt.reading)

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict an exchange.

        Raises:
            InputError: A server refuses the key, or knows no such model.
        """
        conversations: list[Conversation] = []
        verdicts: list[Verdict | None] = []
        for exchange in exchanges:
            built = self.prompt.build(exchange)
            if isinstance(built, Verdict):
                verdicts.append(built)
            else:
                verdicts.append(None)
                conversations.append(built)
        from_model = iter(self._verdicts_of(conversations))
        for i, verdict in enumerate(verdicts):
            if verdict is None:
                verdicts[i] = next(from_model)
        return [verdict for verdict in verdicts if verdict is not None]

    def _verdicts_of(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """The verdicts of these conversations, from the cache or from the model."""
        keys: list[str] = []
        for conversation in conversations:
            keys.append(cache_key(*self._key_parts, json.dumps(list(conversation))))

        def generate(missing: Sequence[int], keep: Callable[[int, Verdict], None]) -> None:
            def finish(position: int, _: int, completion: Completion) -> None:
                keep(missing[position], self._read(completion))

            # `alone`: a verdict may not depend on which others were missing from the cache.
            self.engine.generate(
                [conversations[i] for i in missing],
                self.prompt.sampling,
                GenerateOptions(on_finish=finish, choices=self.prompt.choices, alone=True),
            )

        return self._cache.through(keys, generate)

    def _read(self, completion: Completion) -> Verdict:
        if not completion.missing:
            return self.prompt.read(completion)
        reason = f"the judge could not be asked: {completion.error}"
        if completion.failed:
            return Verdict.failure(reason)
        return Verdict.unscored(reason)


def no_verdict(completion: Completion, reply: str) -> Verdict:
    """The unscored verdict of a reply that holds none; its reason quotes the reply's end."""
    reason = "the judge gave no verdict"
    if completion.finish_reason == "length":
        reason += " before its token limit"
    # The end, because a verdict comes after its reasons.
    end = " ".join(reply.split())[-REPLY_END:]
    if end:
        reason += f": {end!r}"
    return Verdict.unscored(reason)


def await_server(engine: Engine | None) -> None:
    """Has an engine of a server wait for that server, even one that was never reached; any other has none to wait for.

    A judge comes last: what it judges was paid for, and should not be lost to a server that starts late.
    """
    from safereason.engines.openai import OpenAIEngine

    if isinstance(engine, OpenAIEngine):
        engine.be_awaited()


def identity(model: ModelSpec) -> str:
    """A model's part of the cache's key: name and address of a server's, else what its folder holds now.

    The folder's path does not count, so that a copy on another machine finds the verdicts again.
    """
    if model.is_remote:
        return f"{model} {shown_address()}"
    # A hub id counts by its name: its files may not be here.
    contents = model.location
    if Path(contents).is_dir():
        contents = weights.of_folder(Path(contents))
    if model.engine == "vllm":
        return json.dumps(["vllm", contents])
    return json.dumps([contents])
