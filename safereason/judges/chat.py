"""A chat model as a judge: the prompt of a rubric, filled with an exchange, and the verdict read from the reply."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from safereason.engines.base import Completion, Conversation, Sampling
from safereason.engines.engine_spec import Loading
from safereason.engines.spec import ModelSpec
from safereason.judges.base import Exchange, Measure, Verdict
from safereason.judges.cache import VerdictCache
from safereason.judges.llm_judge import LLMJudge, identity, no_verdict
from safereason.judges.template import ANSWER, CONTEXT, REQUEST, JudgeTemplate
from safereason.text import reasoning
from safereason.text.inert import special_tokens

SAMPLING = Sampling(temperature=0.0, max_new_tokens=1024)
"""Greedy, so that a verdict can be repeated; the length leaves room for models that reason."""


@dataclass(frozen=True)
class Rubric:
    """The prompt of one rubric, and how a reply to it is read."""

    name: str
    measure: Measure
    template: JudgeTemplate
    """Its slots hold the request, the answer and the context, in this order."""
    find: Callable[[str], Verdict | None]
    """The verdict in a reply; None where it holds none."""
    reading: str = "1"
    """A version of `find`, for the cache's key: it changes with every change of `find`."""
    sampling: Sampling = SAMPLING
    special: Sequence[str] = ()
    choices: int = 0

    def build(self, exchange: Exchange) -> Conversation:
        """The conversation: the template, filled with an exchange."""
        # Harmless prompts and most behaviors have no context, which leaves the slot empty.
        context = ""
        if exchange.behavior is not None:
            context = exchange.behavior.context or ""
        values = (exchange.request, exchange.answer, context)
        return self.template.fill(dict(zip(self.template.slots, values, strict=True)), self.special)

    def read(self, completion: Completion) -> Verdict:
        """The verdict after the model's reasoning, if it has any; reasoning that was never closed holds none."""
        reply = completion.parts.answer
        # A verdict inside unfinished reasoning may be one that the model goes on to reject.
        if reasoning.OPEN in completion.full_text and not completion.parts.closed:
            reply = ""
        return self.find(reply) or no_verdict(completion, reply)


def open_rubric(
    name: str,
    measure: Measure,
    template: JudgeTemplate,
    find: Callable[[str], Verdict | None],
    model: ModelSpec,
    loading: Loading,
    *,
    reading: str = "1",
    sampling: Sampling = SAMPLING,
    cache: VerdictCache | None = None,
) -> LLMJudge:
    """A chat model as a judge: `openai/NAME` at `$OPENAI_BASE_URL` or OpenAI, or one that runs here.

    Other arguments as `Rubric` has them.

    Raises:
        InputError: The model cannot be had.
    """
    engine = loading.open(model)
    rubric = Rubric(name, measure, template, find, reading, sampling, special_tokens(engine.tokenizer))
    return LLMJudge(rubric, engine, identity(model), cache)


SLOTS = (REQUEST, ANSWER, CONTEXT)
"""The slots of a template whose wording is our own."""
