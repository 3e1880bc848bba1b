"""The direct request: a behavior asked for in its own words. The baseline that every attack has to beat."""

from collections.abc import Iterator, Sequence
from typing import Any

from safereason.attacks.base import Attack, Setup, Step, TestCase
from safereason.data.example import Example


def search(behaviors: Sequence[Example], settings: Any, setup: Setup) -> Iterator[Step]:
    """The behavior's own text, unchanged."""
    yield Step(0, tuple(TestCase(behavior.id, "direct", behavior.prompt) for behavior in behaviors))


ATTACK = Attack("direct", "The behavior asked for in its own words", search)
