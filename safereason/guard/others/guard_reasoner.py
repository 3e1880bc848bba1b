"""GuardReasoner (arXiv 2501.18492): reasons in steps, then answers for the request, the refusal and the response.

The prompt is the publisher's, from a file. The model gets it verbatim.

Deviations: (1) the last answer counts wherever it is, where the publisher's script looks at the last 300 characters;
(2) an answer that cannot be read is unparsed, where that script counts it as the wrong one; (3) control tokens inside
the conversation are made inert.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safereason.engines.base import Completion, Conversation
from safereason.engines.spec import ModelSpec
from safereason.guard.base import GuardVerdict, Question, unparsed_verdict
from safereason.guard.others.base import GuardOptions, PromptedGuard, VerdictField, completing_engine
from safereason.guard.others.template import PromptTemplate, required_prompt_template
from safereason.recipe.schema import Sampling

# An answer may be in bold, such as `Request: **harmful**`.
REQUEST = VerdictField(r"\brequest\s*:[\s*]*", "harmful", "unharmful")
RESPONSE = VerdictField(r"\bresponse\s*:[\s*]*", "harmful", "unharmful")
NO_RESPONSE = "None"
"""The publisher's text for a missing response."""


@dataclass(frozen=True)
class GuardReasoner:
    """The format of GuardReasoner: one prompt, and an answer with reasoning and several verdicts."""

    template: PromptTemplate
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=2048)

    def prompts(self, question: Question, special: Sequence[str] = ()) -> list[Conversation] | str:
        """The prompt, or why there is none."""
        return self.template.conversations(question, no_response=NO_RESPONSE, special=special)

    def read(self, question: Question, completions: Sequence[Completion]) -> GuardVerdict:
        """The verdict on the response if there is one, else on the request, with the reasoning before both."""
        completion = completions[0]
        field = REQUEST if question.response is None else RESPONSE
        label = field.label(completion.text)
        # The answer on the request comes first, also when the response is judged.
        first_answer = REQUEST.find(completion.text) or field.find(completion.text)
        if label is None or first_answer is None:
            return unparsed_verdict(completion)
        before_answers = completion.text[: first_answer.start()]
        reasoning = re.sub(r"\banswers\s*:\s*\Z", "", before_answers, flags=re.IGNORECASE).strip()
        return GuardVerdict(
            label,
            field.score(completion),
            reasoning=reasoning,
            text=completion.text,
            tokens=len(completion.token_ids),
        )


def open_guard_reasoner(model: ModelSpec, options: GuardOptions) -> PromptedGuard:
    """GuardReasoner with the prompt of the `template` option.

    Raises:
        InputError: The model or the prompt cannot be read.
    """
    template = required_prompt_template("guard-reasoner", options.template)
    return PromptedGuard(f"guard-reasoner:{model}", completing_engine(model, options), GuardReasoner(template))
