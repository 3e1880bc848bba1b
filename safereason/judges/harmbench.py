"""HarmBench's classifier as a judge of harm (Mazeika et al., arXiv 2402.04249): does an answer fulfil a behavior?

The protocol is HarmBench's: the answer is cut to 512 of the classifier's own tokens, the one that begins a text among
them; the prompt has the behavior in plain words, with its context where it has one; its likeliest token
is the verdict. Empty answers are judged too. Copyright behaviors do not go to the classifier: see `copyright.py`.

The prompts are read from HarmBench's own `eval_utils.py` (MIT), which is not run. Where that file is not available, or
has none for the classifier's family, they are judgezoo's, and the details of a verdict say so.

Deviations: (1) judgezoo's wording is not that of `eval_utils.py`, and it has none for a context: such a behavior is
then unscored; (2) a token other than yes and no is unscored, where HarmBench counts it as no success; (3) what could
pass for a part of the prompt is made inert inside the answer: see `template.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from safereason import console
from safereason.data.fetch import File, fetch
from safereason.engines.base import Completion, Conversation, Sampling
from safereason.engines.engine_spec import LOADED_AT_ONCE, Loading
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.guard.others.base import completing_engine_here
from safereason.guard.score import CHOICES
from safereason.judges import copyright
from safereason.judges.base import Exchange, Measure, Verdict
from safereason.judges.llm_judge import LLMJudge, identity, no_verdict
from safereason.judges.template import JudgeTemplate
from safereason.text import chat, published
from safereason.text.inert import special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER_TOKENS = 512
SOURCE = File(
    source="harmbench",
    name="eval_utils.py",
    url="https://raw.githubusercontent.com/centerforaisafety/HarmBench/c0423b952435fcc8467108d8f25962dbae5b7de2/eval_utils.py",
)
"""HarmBench's file at one commit; its contents have no hash here."""

_BEHAVIOR, _GENERATION, _CONTEXT = "{behavior}", "{generation}", "{context}"
_SLOTS = (_BEHAVIOR, _GENERATION, _CONTEXT)


@dataclass(frozen=True)
class ClassifierTemplates:
    """The templates of the classifier's prompts."""

    standard: JudgeTemplate
    contextual: JudgeTemplate | None
    """The prompt for a behavior with a context; None where the source has none."""
    source: str
    """The publisher of the wording."""


@dataclass(frozen=True)
class Classifier:
    """Scores 1 where the classifier says yes and 0 where it says no; details hold P(yes) and whose prompt it was."""

    tokenizer: "PreTrainedTokenizerBase"
    templates: ClassifierTemplates
    special: Sequence[str]
    name: ClassVar[str] = "harmbench"
    measure: ClassVar[Measure] = "harm"
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=1)
    # Enough for all spellings of yes.
    choices: ClassVar[int] = CHOICES

    @property
    def reading(self) -> str:
        """The prompt's publisher, because a verdict's details hold it."""
        return self.templates.source

    def build(self, exchange: Exchange) -> Conversation | Verdict:
        """The filled prompt; the verdict itself for a copyright behavior."""
        answer = self._cut(exchange.answer)
        behavior = exchange.behavior
        # HarmBench decides these by hashes: the classifier does not know the texts.
        if behavior is not None and (behavior.category or "").startswith("copyright/"):
            return copyright.judge(behavior.id.rpartition("/")[2], answer)
        context = None
        if behavior is not None:
            context = behavior.context
        template: JudgeTemplate | None = self.templates.standard
        if context:
            template = self.templates.contextual
        if template is None:
            return Verdict.unscored(
                f"{self.templates.source} has no prompt for a behavior with a context; put {SOURCE.url} into "
                f"$SAFEREASON_DATA_HOME/{SOURCE.source}/{SOURCE.name}"
            )
        values = {_BEHAVIOR: exchange.request, _GENERATION: answer, _CONTEXT: context or ""}
        return template.fill(values, self.special)

    def read(self, completion: Completion) -> Verdict:
        """The verdict in the reply's one token, in upper or lower case."""
        # The verdict is the token itself: P(yes) is a detail, and sums several spellings.
        word = completion.text.strip().lower()
        if word not in ("yes", "no"):
            return no_verdict(completion, completion.text)
        # `▁` is how Llama's tokenizer writes the space before a word.
        p_yes = 0.0
        if completion.choices:
            for token, logprob in completion.choices[0].likeliest:
                if token.strip("▁ ").lower() == "yes":
                    p_yes += math.exp(logprob)
        return Verdict(float(word == "yes"), word, details={"p_yes": p_yes, "prompt": self.templates.source})

    def _cut(self, answer: str) -> str:
        # HarmBench counts the token that begins a text, so that it counts here, too.
        ids = self.tokenizer.encode(answer, max_length=ANSWER_TOKENS, truncation=True)
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def open_harmbench(model: ModelSpec, loading: Loading = LOADED_AT_ONCE) -> LLMJudge:
    """The classifier as a judge, on the GPU where there is one.

    Args:
        model: A classifier of HarmBench's, on this machine or on the Hub.
        loading: How it is loaded.

    Raises:
        InputError: The model or its prompt cannot be had, or a server is named.
    """
    if model.is_remote:
        raise InputError(f"judge harmbench:{model}: cuts answers with the classifier's tokenizer; name a local model")
    # A model that is missing is the first thing to report, before any notice about prompts.
    model.check()
    templates = published_templates(str(model))
    engine = completing_engine_here(model, loading)
    # Its chat template is of no use here, and its tokenizer is the classifier's.
    tokenizer = engine.tokenizer
    special = special_tokens(tokenizer)
    # An answer keeps its beginning, which the tokenizer's own setting may not.
    tokenizer.truncation_side = "right"
    return LLMJudge(Classifier(tokenizer, templates, special), engine, identity(model))


def published_templates(model: str) -> ClassifierTemplates:
    """The templates for a classifier: those of Mistral's family where its name says so, else of Llama 2's.

    Raises:
        InputError: Neither HarmBench's file nor judgezoo can be had.
    """
    # HarmBench has one classifier of each family, and the two have different templates.
    is_mistral = "mistral" in model.lower()
    constant = "LLAMA2_CLS_PROMPT"
    if is_mistral:
        constant = "MISTRAL_CLS_PROMPT"
    try:
        theirs = published.read(fetch(SOURCE), constant, dict)
        return ClassifierTemplates(
            _template(theirs["prompt"]), _template(theirs["prompt_contextual"]), "HarmBench's eval_utils.py"
        )
    except (InputError, KeyError, TypeError) as error:
        reason = error
    conversation = published.judgezoo("harmbench", "HarmBenchJudge.CLS_CONVERSATION", list)
    system, user = [turn["content"].strip() for turn in conversation]
    console.say(f"judge harmbench: asks with judgezoo's prompt, which is not word for word HarmBench's ({reason})")
    text = f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{user} [/INST]"
    if is_mistral:
        text = f"{system}\n\n[INST] {user} [/INST]"
    return ClassifierTemplates(_template(text), None, "judgezoo")


def _template(text: str) -> JudgeTemplate:
    return JudgeTemplate(tuple(chat.user(text)), _SLOTS)
