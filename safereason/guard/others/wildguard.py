"""WildGuard (Allen AI, arXiv 2406.18495): is the request harmful, the response a refusal, the response harmful.

The prompt is the publisher's, from its package `wildguard` or from a file. It goes to the model as it stands.

Deviations: (1) control tokens inside the conversation are made inert; (2) `N/A` leaves a question unparsed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from safereason.engines.base import Completion, Conversation, Engine
from safereason.guard.base import Finding, Question
from safereason.guard.others.base import Field, Options, completing_engine, unread
from safereason.guard.others.template import Form, installed, read_form
from safereason.recipe.schema import Sampling

REQUEST = Field(r"^[^\S\n]*harmful\s*request\s*:\s*", "yes", "no")
RESPONSE = Field(r"^[^\S\n]*harmful\s*response\s*:\s*", "yes", "no")
_NO_ANSWER = {field: replace(field, unsafe="n/a", safe="na") for field in (REQUEST, RESPONSE)}

_ADVICE = "wildguard: its prompt is its publisher's; run `pip install wildguard`, or save it to a file, name --template"


@dataclass(frozen=True)
class WildGuard:
    """Asks with a form; the place of the response stays empty where there is none."""

    form: Form
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=128)

    def prompts(self, question: Question, special: Sequence[str] = ()) -> list[Conversation] | str:
        """One prompt."""
        return self.form.ask(question, special=special)

    def read(self, question: Question, completions: Sequence[Completion]) -> Finding:
        """The answer about the request, or about the response where there is one."""
        completion, field = completions[0], REQUEST if question.response is None else RESPONSE
        label = field.label(completion.text)
        if label is None:
            no_answer = _NO_ANSWER[field].find(completion.text) is not None
            return unread(completion, "the guard answers N/A") if no_answer else unread(completion)
        return Finding(label, field.score(completion), text=completion.text, tokens=len(completion.token_ids))


def open_wildguard(model: str, options: Options) -> tuple[Engine, WildGuard]:
    """Opens it with the prompt of the options' file, else of the installed package.

    Raises:
        InputError: The model or the prompt is not to be had.
    """
    form = read_form(options.template) if options.template else _published()
    return completing_engine(model, options), WildGuard(form)


def _published() -> Form:
    return Form(str(installed("wildguard.utils", _ADVICE).WILDGUARD_INPUT_FORMAT))
