"""WildGuard (Allen AI, arXiv 2406.18495): is the request harmful, the response a refusal, the response harmful.

The prompt is the publisher's, from its package `wildguard` or from a file. The model gets it verbatim.

Deviations: (1) control tokens inside the conversation are made inert; (2) `N/A` leaves a question unparsed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from safereason.engines.base import Completion, Conversation
from safereason.engines.spec import ModelSpec
from safereason.guard.base import GuardVerdict, Question, unparsed_verdict
from safereason.guard.others.base import GuardOptions, PromptedGuard, VerdictField, completing_engine
from safereason.guard.others.template import PromptTemplate, import_publisher, read_prompt_template
from safereason.recipe.schema import Sampling

# The answer has one line per verdict. `^` tells it apart from the same words inside a sentence.
REQUEST = VerdictField(r"^[^\S\n]*harmful\s*request\s*:\s*", "yes", "no")
RESPONSE = VerdictField(r"^[^\S\n]*harmful\s*response\s*:\s*", "yes", "no")

_ADVICE = "wildguard: its prompt is its publisher's; run `pip install wildguard`, or save it to a file, name --template"


@dataclass(frozen=True)
class WildGuard:
    """The format of WildGuard: one prompt, whose slot for the response stays empty without one."""

    template: PromptTemplate
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=128)

    def prompts(self, question: Question, special: Sequence[str] = ()) -> list[Conversation] | str:
        """The prompt, or why there is none."""
        return self.template.conversations(question, special=special)

    def read(self, question: Question, completions: Sequence[Completion]) -> GuardVerdict:
        """The verdict on the response if there is one, else on the request."""
        completion = completions[0]
        field = REQUEST if question.response is None else RESPONSE
        label = field.label(completion.text)
        if label is not None:
            return GuardVerdict(label, field.score(completion), text=completion.text, tokens=len(completion.token_ids))
        # The same place in the text, with the publisher's two spellings of no answer as the words to look for.
        not_applicable = replace(field, unsafe="n/a", safe="na")
        if not_applicable.find(completion.text) is not None:
            return unparsed_verdict(completion, "the guard answers N/A")
        return unparsed_verdict(completion)


def open_wildguard(model: ModelSpec, options: GuardOptions) -> PromptedGuard:
    """WildGuard with the prompt of the `template` option, or else of the installed package.

    Raises:
        InputError: The model or the prompt cannot be read.
    """
    template = read_prompt_template(options.template) if options.template else _package_template()
    return PromptedGuard(f"wildguard:{model}", completing_engine(model, options), WildGuard(template))


def _package_template() -> PromptTemplate:
    utils = import_publisher("wildguard.utils", _ADVICE)
    return PromptTemplate(str(utils.WILDGUARD_INPUT_FORMAT))
