"""Aegis 1.0 (NVIDIA, arXiv 2404.05993): Llama Guard's answer format with categories of its own.

The prompt is the publisher's: for responses from the package `judgezoo`, or else from a file. It is put between
Llama 2's instruction marks.

Deviations: (1) without a file only responses are judged, because judgezoo's prompt has no form for prompts;
(2) control tokens inside the conversation are made inert.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safereason.engines.base import Completion, Conversation
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.guard.base import GuardVerdict, Question
from safereason.guard.others.base import GuardOptions, PromptedGuard, completing_engine
from safereason.guard.others.llama_guard import verdict_of_first_line
from safereason.guard.others.template import PromptTemplate, read_prompt_template
from safereason.guard.prompt import PROMPT_SLOT, RESPONSE_SLOT
from safereason.recipe.schema import Sampling
from safereason.text import published
from safereason.text.template import filled

_ADVICE = "aegis: its prompt is its publisher's; get it from judgezoo, or save it and name --template"


@dataclass(frozen=True)
class Aegis:
    """The format of Aegis: one prompt, about the response if the template has a slot for it."""

    template: PromptTemplate
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=64)

    def prompts(self, question: Question, special: Sequence[str] = ()) -> list[Conversation] | str:
        """The prompt, or why there is none."""
        # Such a prompt would ask about an empty response, which is always safe.
        if question.response is None and self.template.takes_response:
            return f"this prompt of Aegis asks about responses; give one without {RESPONSE_SLOT} as --template"
        # Aegis is an adapter of the first Llama Guard, which is trained on Llama 2's instruction format.
        instruction = PromptTemplate(f"[INST] {self.template.text.strip()} [/INST]")
        return instruction.conversations(question, special=special)

    def read(self, question: Question, completions: Sequence[Completion]) -> GuardVerdict:
        """The verdict in the completion, in Llama Guard's format."""
        return verdict_of_first_line(completions[0])


def open_aegis(model: ModelSpec, options: GuardOptions) -> PromptedGuard:
    """Aegis with the prompt of the `template` option, or else of judgezoo.

    Raises:
        InputError: The model or the prompt cannot be read.
    """
    template = read_prompt_template(options.template) if options.template else _judgezoo_template()
    return PromptedGuard(f"aegis:{model}", completing_engine(model, options), Aegis(template))


def _judgezoo_template() -> PromptTemplate:
    try:
        (turn,) = published.judgezoo("aegis_guard", "AegisGuardJudge.CLS_CONVERSATION", list)
    except InputError as error:
        raise InputError(f"{_ADVICE} ({error})") from error
    text = str(turn["content"])
    return PromptTemplate(filled(text, {"{question}": PROMPT_SLOT, "{answer}": RESPONSE_SLOT}))
