"""What judges that ask a model have in common: batching, the cache of verdicts, and what counts as no verdict."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from safereason.engines import weights
from safereason.engines.base import Completion, Conversation, Engine, Sampling
from safereason.engines.open import REMOTE, model_location, open_engine
from safereason.engines.server import shown_address
from safereason.judges.base import Exchange, Verdict
from safereason.judges.cache import VerdictCache, cache_key


class JudgePrompt(Protocol):
    """How one judge asks and reads."""

    @property
    def name(self) -> str:
        """The judge's."""
        ...

    @property
    def measures(self) -> str:
        """See `Judge.measures`."""
        ...

    @property
    def sampling(self) -> Sampling:
        """How its replies are drawn."""
        ...

    @property
    def choices(self) -> int:
        """Likeliest tokens it reads at each position."""
        ...

    @property
    def reading(self) -> str:
        """What its reading depends on: a verdict is only taken from the cache that was read alike."""
        ...

    def ask(self, exchange: Exchange) -> Conversation | Verdict:
        """What the model is asked about an exchange, or the verdict where there is nothing to ask."""
        ...

    def read(self, completion: Completion) -> Verdict:
        """The verdict in what the model wrote."""
        ...


class LLMJudge:
    """Asks a model, once for equal questions; verdicts are kept on disk as they come."""

    def __init__(self, kind: JudgePrompt, engine: Engine, model: str, cache: VerdictCache | None = None) -> None:
        """Takes an engine that is open.

        Args:
            kind: How it is asked and read.
            engine: Whom to ask.
            model: As `identity` gives it, for the cache.
            cache: In place of the one in the cache folder.
        """
        self.kind = kind
        self.name, self.measures = kind.name, kind.measures
        self.engine = engine
        await_server(engine)
        self._cache = cache or VerdictCache()
        settings = kind.sampling.model_dump_json()
        self._parts = (kind.name, kind.measures, model, settings, kind.reading)

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict an exchange.

        Raises:
            InputError: A server refuses the key, or knows no such model.
        """
        asked = [self.kind.ask(exchange) for exchange in exchanges]
        questions = [each for each in asked if not isinstance(each, Verdict)]
        keys = [cache_key(*self._parts, json.dumps(list(question))) for question in questions]

        def answer(missing: Sequence[int], keep: Callable[[int, Verdict], None]) -> None:
            def finish(place: int, _: int, completion: Completion) -> None:
                keep(missing[place], self._read(completion))

            self.engine.generate(
                [questions[i] for i in missing],
                self.kind.sampling,
                on_finish=finish,
                choices=self.kind.choices,
                alone=True,
            )

        found = iter(self._cache.through(keys, answer))
        return [each if isinstance(each, Verdict) else next(found) for each in asked]

    def _read(self, completion: Completion) -> Verdict:
        if completion.missing:
            verdict = Verdict.failure if completion.failed else Verdict.unscored
            return verdict(f"the judge could not be asked: {completion.error}")
        return self.kind.read(completion)


def no_verdict(completion: Completion, reply: str) -> Verdict:
    """What a reply is that holds no verdict: unscored, with the end of what it says."""
    cut = " before its token limit" if completion.finish_reason == "length" else ""
    said = " ".join(reply.split())[-100:]
    return Verdict.unscored(f"the judge gave no verdict{cut}" + (f": {said!r}" if said else ""))


def open_chat(model: str) -> Engine:
    """A chat model: `openai/NAME` at `$OPENAI_BASE_URL` or OpenAI, or one that runs here.

    Raises:
        InputError: It is not to be had.
    """
    return open_engine(model, precision=precision())


def await_server(engine: object) -> None:
    """Has a judge's server waited for, even where it was never reached: completions are there that wait for it."""
    from safereason.engines.openai import OpenAIEngine

    if isinstance(engine, OpenAIEngine):
        engine.be_awaited()


def precision() -> str:
    """The arithmetic of a judge that runs here."""
    import torch

    return "bf16" if torch.cuda.is_available() else "fp32"


def identity(model: str) -> str:
    """What the verdicts of a model depend on: its name and server, or what its folder holds now, wherever that lies."""
    if model.startswith(REMOTE):
        return f"{model} {shown_address()}"
    location = model_location(model)
    held = weights.of_folder(Path(location)) if Path(location).is_dir() else location
    engine = ("vllm",) if model.startswith("vllm/") else ()
    return json.dumps([*engine, held])
