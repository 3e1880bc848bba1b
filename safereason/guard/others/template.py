"""Prompt templates that belong to a publisher, read from its package or from a file of the user."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from safereason.engines.base import Conversation
from safereason.errors import InputError
from safereason.files import read_text
from safereason.guard.base import Question
from safereason.guard.prompt import PROMPT_SLOT, RESPONSE_SLOT
from safereason.text import chat
from safereason.text.template import filled


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt with the slot `{prompt}` and, unless it is about prompts only, the slot `{response}`."""

    text: str

    @property
    def takes_response(self) -> bool:
        """Whether there is a slot for a response."""
        return RESPONSE_SLOT in self.text

    def without_response(self) -> "PromptTemplate":
        """The template without the lines that hold the response."""
        kept = [line for line in self.text.splitlines(keepends=True) if RESPONSE_SLOT not in line]
        return PromptTemplate("".join(kept))

    def conversations(
        self, question: Question, *, no_response: str = "", special: Iterable[str] = ()
    ) -> list[Conversation] | str:
        """The one conversation for a question, a single user turn, or the reason why there is none.

        Args:
            question: A prompt or a response to judge.
            no_response: Text for the response's slot if the question has no response.
            special: Special tokens of the guard's tokenizer, if it is known.
        """
        if question.response is not None and not self.takes_response:
            return f"the template has no {RESPONSE_SLOT}, so that it takes no response"
        prompt, response = question.texts(special)
        return [chat.user(filled(self.text, {PROMPT_SLOT: prompt, RESPONSE_SLOT: response or no_response}))]


def read_prompt_template(file: str) -> PromptTemplate:
    """The template in a file, to its last character.

    Raises:
        InputError: It cannot be read, or has no slot for the prompt.
    """
    try:
        # Nothing is stripped: a model that continues a prompt depends on the line break at its end.
        text = read_text(Path(file))
    except InputError as error:
        raise InputError(f"--template {error}") from error
    if PROMPT_SLOT not in text:
        raise InputError(f"--template {file}: has no {PROMPT_SLOT}; put it where the user's message is to stand")
    return PromptTemplate(text)


def required_prompt_template(name: str, file: str | None) -> PromptTemplate:
    """The template of a guard that has none without a file.

    Raises:
        InputError: There is no file, or `read_prompt_template` refuses it.
    """
    if file is None:
        raise InputError(f"{name}: its prompt is its publisher's; save it to a file and name that as --template")
    return read_prompt_template(file)


def import_publisher(module: str, advice: str) -> ModuleType:
    """A module of a publisher's package, which is an optional dependency.

    Args:
        module: Dotted name.
        advice: Advice on how to get the package, for the error.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{advice} ({error})") from error
