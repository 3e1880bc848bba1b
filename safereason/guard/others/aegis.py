"""Aegis 1.0 (NVIDIA, arXiv 2404.05993): Llama Guard's form of answer over categories of its own.

The prompt is the publisher's: for responses from the package `judgezoo`, or from a file. It stands between Llama 2's
marks of an instruction.

Deviations: (1) without a file only responses are judged, because judgezoo's prompt asks about nothing else;
(2) control tokens inside the conversation are made inert.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safereason.engines.base import Completion, Conversation, Engine
from safereason.errors import InputError
from safereason.guard.base import Finding, Question
from safereason.guard.others.base import Options, completing_engine
from safereason.guard.others.llama_guard import first_line
from safereason.guard.others.template import Form, read_form
from safereason.guard.prompt import PROMPT, RESPONSE
from safereason.recipe.schema import Sampling
from safereason.text import published

_ADVICE = "aegis: its prompt is its publisher's; get it from judgezoo, or save it and name --template"


@dataclass(frozen=True)
class Aegis:
    """Asks with a form: about responses where it has a place for one, else about prompts."""

    form: Form
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=64)

    def prompts(self, question: Question, special: Sequence[str] = ()) -> list[Conversation] | str:
        """One prompt."""
        if question.response is None and self.form.takes_response:
            return f"this prompt of Aegis asks about responses; give one without {RESPONSE} as --template"
        return Form(f"[INST] {self.form.text.strip()} [/INST]").ask(question, special=special)

    def read(self, question: Question, completions: Sequence[Completion]) -> Finding:
        """As Llama Guard is read."""
        return first_line(completions[0])


def open_aegis(model: str, options: Options) -> tuple[Engine, Aegis]:
    """Opens it with the prompt of the options' file, else of judgezoo.

    Raises:
        InputError: The model or the prompt is not to be had.
    """
    form = read_form(options.template) if options.template else _published()
    return completing_engine(model, options), Aegis(form)


def _published() -> Form:
    try:
        (turn,) = published.judgezoo("aegis_guard", "AegisGuardJudge.CLS_CONVERSATION")
    except InputError as error:
        raise InputError(f"{_ADVICE} ({error})") from error
    text = str(turn["content"])
    return Form(text.replace("{question}", PROMPT).replace("{answer}", RESPONSE))
