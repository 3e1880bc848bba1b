"""The direct request: a behavior asked for in its own words. The baseline that every attack has to beat."""

from collections.abc import Sequence

from safereason.attacks.base import TestCase
from safereason.data.example import Example


def attack(behaviors: Sequence[Example]) -> list[TestCase]:
    """The behavior's own text, unchanged."""
    return [TestCase(behavior_id=b.id, attack="direct", prompt=b.prompt) for b in behaviors]
