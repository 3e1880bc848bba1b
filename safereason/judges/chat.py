"""A chat model that is asked with a frame, as a judge: what the rubrics have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from safereason.engines.base import Completion, Conversation, Sampling
from safereason.judges.base import Exchange, Verdict
from safereason.judges.cache import VerdictCache
from safereason.judges.frame import ANSWER, CONTEXT, REQUEST, Frame
from safereason.judges.llm_judge import LLMJudge, identity, no_verdict, open_chat
from safereason.text import reasoning
from safereason.text.inert import special_tokens

SAMPLING = Sampling(temperature=0.0, max_new_tokens=1024)
"""How replies are drawn; the length leaves room for models that reason."""


@dataclass(frozen=True)
class Rubric:
    """How a chat model is asked about an exchange, and how its reply is read."""

    name: str
    measures: str
    frame: Frame
    """Its places are of the request, the answer and the context, in this order."""
    find: Callable[[str], Verdict | None]
    """The verdict in a reply; None where it holds none."""
    reading: str = "1"
    """Changes where `find` does."""
    sampling: Sampling = SAMPLING
    special: Sequence[str] = ()
    choices: int = 0

    def ask(self, exchange: Exchange) -> Conversation:
        """The filled frame."""
        context = exchange.wanted.context if exchange.wanted else None
        values = (exchange.request, exchange.answer, context or "")
        return self.frame.fill(dict(zip(self.frame.places, values, strict=True)), self.special)

    def read(self, completion: Completion) -> Verdict:
        """What it says after its reasoning, if it has any: reasoning that was never closed is no verdict."""
        unclosed = not completion.parts.closed and reasoning.OPEN in completion.full_text
        reply = "" if unclosed else completion.parts.answer
        return self.find(reply) or no_verdict(completion, reply)


def open_rubric(
    name: str,
    measures: str,
    frame: Frame,
    find: Callable[[str], Verdict | None],
    model: str,
    *,
    reading: str = "1",
    sampling: Sampling = SAMPLING,
    cache: VerdictCache | None = None,
) -> LLMJudge:
    """Opens a chat model as a judge; arguments as `Rubric` has them.

    Raises:
        InputError: The model is not to be had.
    """
    engine = open_chat(model)
    rubric = Rubric(name, measures, frame, find, reading, sampling, special_tokens(engine))
    return LLMJudge(rubric, engine, identity(model), cache)


PLACES = (REQUEST, ANSWER, CONTEXT)
"""Of a frame of our own."""
