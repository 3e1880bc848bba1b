"""GuardReasoner (arXiv 2501.18492): reasons in steps, then answers for the request, the refusal and the response.

The prompt is the publisher's, from a file. It goes to the model as it stands.

Deviations: (1) the last answer counts wherever it is, where the publisher's script looks at the last 300 characters;
(2) an answer that cannot be read is unparsed, where that script counts it as the wrong one; (3) control tokens inside
the conversation are made inert.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safereason.engines.base import Completion, Conversation, Engine
from safereason.guard.base import Finding, Question
from safereason.guard.others.base import Field, Options, completing_engine, unread
from safereason.guard.others.template import Form, needed_form
from safereason.recipe.schema import Sampling

REQUEST = Field(r"\brequest\s*:[\s*]*", "harmful", "unharmful")
RESPONSE = Field(r"\bresponse\s*:[\s*]*", "harmful", "unharmful")
NO_RESPONSE = "None"
"""What the publisher puts in the place of a response that is not there."""


@dataclass(frozen=True)
class GuardReasoner:
    """Asks with a form."""

    form: Form
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=2048)

    def prompts(self, question: Question, special: Sequence[str] = ()) -> list[Conversation] | str:
        """One prompt."""
        return self.form.ask(question, no_response=NO_RESPONSE, special=special)

    def read(self, question: Question, completions: Sequence[Completion]) -> Finding:
        """The answer about the request, or about the response where there is one, and what it reasoned before both."""
        completion, field = completions[0], REQUEST if question.response is None else RESPONSE
        label, first = field.label(completion.text), REQUEST.find(completion.text) or field.find(completion.text)
        if label is None or first is None:
            return unread(completion)
        steps = re.sub(r"\banswers\s*:\s*\Z", "", completion.text[: first.start()], flags=re.IGNORECASE)
        return Finding(
            label,
            field.score(completion),
            reasoning=steps.strip(),
            text=completion.text,
            tokens=len(completion.token_ids),
        )


def open_guard_reasoner(model: str, options: Options) -> tuple[Engine, GuardReasoner]:
    """Opens it with the prompt of the options' file.

    Raises:
        InputError: The model or the prompt is not to be had.
    """
    form = needed_form("guard-reasoner", options.template)
    return completing_engine(model, options), GuardReasoner(form)
