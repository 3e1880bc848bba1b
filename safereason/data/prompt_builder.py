"""Prompt builders: functions from an example to the conversation that a model is prompted with."""

from collections.abc import Callable

from safereason.data.example import Example
from safereason.text.chat import Message, user

PromptBuilder = Callable[[Example], list[Message]]
"""Builds the conversation of an example; a guard's puts the prompt into the guard's own template."""


def user_turn(example: Example) -> list[Message]:
    """The example's prompt as a single turn of the user."""
    return user(example.prompt)
