"""NemoGuard Content Safety (NVIDIA, from Aegis 2.0): a JSON object with a verdict on the user and one on the agent.

The prompt is the publisher's, from a file. It is one user turn of the model's chat template.

Deviations: (1) where a question has no response, the lines of the prompt that hold it are left out; (2) the object is
read as far as it goes, so that one cut short still counts; (3) control tokens inside the conversation are made inert.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safereason.engines.base import Completion, Conversation, Engine
from safereason.engines.open import open_engine
from safereason.guard.base import Finding, Question
from safereason.guard.others.base import Field, Options, unread
from safereason.guard.others.template import Form, needed_form
from safereason.recipe.schema import Sampling

USER = Field(r'"user\s*safety"\s*:\s*"\s*')
RESPONSE = Field(r'"response\s*safety"\s*:\s*"\s*')
_CATEGORIES = re.compile(r'"safety\s*categories"\s*:\s*"([^"]*)', re.IGNORECASE)


@dataclass(frozen=True)
class NemoGuard:
    """Asks with a form."""

    form: Form
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=100)

    def prompts(self, question: Question, special: Sequence[str] = ()) -> list[Conversation] | str:
        """One prompt."""
        form = self.form.without_response() if question.response is None else self.form
        return form.ask(question, special=special)

    def read(self, question: Question, completions: Sequence[Completion]) -> Finding:
        """The verdict on the user, or on the response where there is one; categories are named for both together."""
        completion, field = completions[0], USER if question.response is None else RESPONSE
        label = field.label(completion.text)
        if label is None:
            return unread(completion)
        listed = _CATEGORIES.search(completion.text) if label == "unsafe" else None
        named = [name.strip() for name in listed[1].split(",")] if listed else []
        return Finding(
            label,
            field.score(completion),
            tuple(dict.fromkeys(filter(None, named))),
            text=completion.text,
            tokens=len(completion.token_ids),
        )


def open_nemoguard(model: str, options: Options) -> tuple[Engine, NemoGuard]:
    """Opens it with the prompt of the options' file.

    Raises:
        InputError: The model or the prompt is not to be had.
    """
    form = needed_form("nemoguard", options.template)
    return open_engine(model, base_url=options.base_url, precision=options.precision), NemoGuard(form)
