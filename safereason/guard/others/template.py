"""Prompts that are a publisher's, from where that publisher or the user has put them."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safereason.engines.base import Conversation
from safereason.errors import InputError
from safereason.files import read_text
from safereason.guard.base import Question
from safereason.guard.prompt import PROMPT, RESPONSE
from safereason.text import chat
from safereason.text.template import filled


@dataclass(frozen=True)
class Form:
    """A prompt with `{prompt}` and, unless it only asks about prompts, `{response}` where these go."""

    text: str

    @property
    def takes_response(self) -> bool:
        """Whether there is a place for a response."""
        return RESPONSE in self.text

    def without_response(self) -> "Form":
        """The form without the lines on which the response stands."""
        return Form("".join(line for line in self.text.splitlines(keepends=True) if RESPONSE not in line))

    def ask(
        self, question: Question, *, no_response: str = "", special: Iterable[str] = ()
    ) -> list[Conversation] | str:
        """The one prompt that asks a question, as a user's turn, or why there is none.

        Args:
            question: What it is about.
            no_response: What stands for the response where the question has none.
            special: Special tokens of the guard's tokenizer, where it is known.
        """
        if question.response is not None and not self.takes_response:
            return f"the template has no {RESPONSE}, so that it cannot ask about a response"
        prompt, response = question.texts(special)
        return [chat.user(filled(self.text, {PROMPT: prompt, RESPONSE: response or no_response}))]


def read_form(file: str) -> Form:
    """A form from a file, which is taken to its last character.

    Raises:
        InputError: It cannot be read, or has no place for the prompt.
    """
    try:
        text = read_text(Path(file))
    except InputError as error:
        raise InputError(f"--template {error}") from error
    if PROMPT not in text:
        raise InputError(f"--template {file}: has no {PROMPT}; put it where the user's message is to stand")
    return Form(text)


def needed_form(name: str, file: str | None) -> Form:
    """The form of a guard whose prompt only a file can give.

    Raises:
        InputError: There is no file, or `read_form` refuses it.
    """
    if file is None:
        raise InputError(f"{name}: its prompt is its publisher's; save it to a file and name that as --template")
    return read_form(file)


def installed(module: str, advice: str) -> Any:
    """A module of a package that need not be there.

    Raises:
        InputError: It is not there; `advice` says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{advice} ({error})") from error
