"""Test cases, and the contract every attack keeps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from safereason.data.example import Example


@dataclass(frozen=True)
class TestCase:
    """The prompt an attack found for a behavior."""

    behavior_id: str
    attack: str
    prompt: str


Attack = Callable[[Sequence[Example]], list[TestCase]]
"""Behaviors to test cases, in order."""
