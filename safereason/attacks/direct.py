"""The direct request: the behavior in its own words. It is the baseline that every attack has to beat."""

from collections.abc import Iterator, Sequence

from safereason.attacks.base import Attack, AttackSettings, SearchStep, Setup, TestCase
from safereason.data.example import Example


def search_direct(behaviors: Sequence[Example], settings: AttackSettings, setup: Setup) -> Iterator[SearchStep]:
    """One step with the behaviors' own prompts, unchanged."""
    cases = [TestCase(behavior.id, "direct", behavior.prompt) for behavior in behaviors]
    yield SearchStep(0, tuple(cases))


ATTACK = Attack("direct", "The behavior in its own words", search_direct)
