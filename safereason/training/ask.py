"""What a model is asked about an example."""

from collections.abc import Callable

from safereason.data.example import Example
from safereason.text.chat import Message, user

Ask = Callable[[Example], list[Message]]
"""The conversation an example is put as."""


def asked(example: Example) -> list[Message]:
    """The prompt alone, as a user's."""
    return user(example.prompt)
