"""NemoGuard Content Safety (NVIDIA, from Aegis 2.0): a JSON object with a verdict on the user and one on the agent.

The prompt is the publisher's, from a file. It is one user turn of the model's chat template.

Deviations: (1) if a question has no response, the prompt's lines with the response are left out; (2) the object is read
as far as it goes, so one that was cut still counts; (3) control tokens inside the conversation are made inert.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safereason.engines.base import Completion, Conversation
from safereason.engines.spec import ModelSpec
from safereason.guard.base import GuardVerdict, Question, unparsed_verdict
from safereason.guard.others.base import GuardOptions, PromptedGuard, VerdictField
from safereason.guard.others.template import PromptTemplate, required_prompt_template
from safereason.recipe.schema import Sampling

# Regular expressions, because a JSON reader refuses an object that was cut at the token limit.
USER = VerdictField(r'"user\s*safety"\s*:\s*"\s*')
RESPONSE = VerdictField(r'"response\s*safety"\s*:\s*"\s*')
_CATEGORIES = re.compile(r'"safety\s*categories"\s*:\s*"([^"]*)', re.IGNORECASE)


@dataclass(frozen=True)
class NemoGuard:
    """The format of NemoGuard: one prompt, and a JSON object as the answer."""

    template: PromptTemplate
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=100)

    def prompts(self, question: Question, special: Sequence[str] = ()) -> list[Conversation] | str:
        """The prompt, or why there is none."""
        template = self.template
        if question.response is None:
            # Its line would otherwise show an empty response, and the answer would hold a verdict on it.
            template = template.without_response()
        return template.conversations(question, special=special)

    def read(self, question: Question, completions: Sequence[Completion]) -> GuardVerdict:
        """The verdict on the response if there is one, else on the user. The categories belong to both together."""
        completion = completions[0]
        field = USER if question.response is None else RESPONSE
        label = field.label(completion.text)
        if label is None:
            return unparsed_verdict(completion)
        return GuardVerdict(
            label,
            field.score(completion),
            _category_names(completion.text) if label == "unsafe" else (),
            text=completion.text,
            tokens=len(completion.token_ids),
        )


def _category_names(text: str) -> tuple[str, ...]:
    """The names in the object's list of categories, each once; the list may be cut."""
    match = _CATEGORIES.search(text)
    if match is None:
        return ()
    names = [name.strip() for name in match[1].split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


def open_nemoguard(model: ModelSpec, options: GuardOptions) -> PromptedGuard:
    """NemoGuard with the prompt of the `template` option.

    Raises:
        InputError: The model or the prompt cannot be read.
    """
    template = required_prompt_template("nemoguard", options.template)
    engine = options.loading.open(model, options.base_url)
    return PromptedGuard(f"nemoguard:{model}", engine, NemoGuard(template))
