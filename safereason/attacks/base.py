"""What an attack is: behaviors in, test cases out, and the best so far at each step of a search."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from safereason.attacks.meter import Meter
from safereason.data.example import Example
from safereason.engines.base import Engine, Message, Sampling

Need = Literal["answers", "likelihood", "weights", "attacker", "score"]
"""What an attack wants: a target that answers, one that scores text, or its weights; an attacker; a judge's score."""
Score = Callable[[Example, Sequence[str]], list[float | None]]
"""How far each answer does what a behavior asks for, from 0 to 1; None where that cannot be said."""


class Settings(BaseModel):
    """The figures of an attack; one class each, every field with its unit in a docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True)
class TestCase:
    """The prompt that an attack found for a behavior, and what goes with it."""

    __test__ = False  # it is no test

    behavior_id: str
    attack: str
    prompt: str
    """What the user says last."""
    turns: tuple[Message, ...] = ()
    """What was said before, such as examples of compliance."""
    prefix: str | None = None
    """What is put into the target's mouth, whole: in place of the evaluation's own prefix; None leaves that."""
    completion: str | None = None
    """What the target wrote, where no text makes it write so again, such as embeddings that no token has."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of it, as JSON has it: its loss, its score, the technique."""


@dataclass(frozen=True)
class Step:
    """How far a search is."""

    number: int
    """0 for what it begins with."""
    cases: tuple[TestCase, ...]
    """The best so far, one for each behavior, in their order."""
    value: float | None = None
    """Its loss or its score; None where nothing is measured, or a judge could not say."""


ANSWERS = Sampling(temperature=0.0, max_new_tokens=256)


@dataclass(frozen=True)
class Setup:
    """What an attack works with. Engines count what they are asked in `meter` themselves."""

    target: Engine
    """The model under attack."""
    prefix: str = ""
    """Its generation prefix, such as an opening tag of reasoning."""
    sampling: Sampling = ANSWERS
    """How its answers are drawn."""
    seed: int = 0
    """Of this group of behaviors: the same seed, the same test cases."""
    attacker: Engine | None = None
    """The model that writes prompts."""
    score: Score | None = None
    """The judge."""
    others: tuple[Engine, ...] = ()
    """Further models that a suffix is to work on."""
    meter: Meter = field(default_factory=Meter)
    """What is spent."""


Search = Callable[[Sequence[Example], Any, Setup], Iterator[Step]]
"""Behaviors that share one search, the attack's settings, and the setup, to steps; the last step is what was found."""


Check = Callable[[Sequence[Example], Any, frozenset[Need]], None]
"""Refuses what the search would, before anything is loaded: given all behaviors, the settings, and what is at hand."""


def nothing_to_check(behaviors: Sequence[Example], settings: Any, at_hand: frozenset[Need]) -> None:
    """An attack that goes with whatever it is given."""


def each_alone(behaviors: Sequence[Example], settings: Any) -> list[list[Example]]:
    """A search for each behavior."""
    return [[behavior] for behavior in behaviors]


@dataclass(frozen=True)
class Attack:
    """One attack. A new one is a file with an `ATTACK` in it, and a line in `ATTACKS`."""

    name: str
    summary: str
    """What it does, in a line."""
    search: Search
    needs: frozenset[Need] = frozenset()
    settings: type[Settings] = Settings
    groups: Callable[[Sequence[Example], Any], list[list[Example]]] = each_alone
    """Which behaviors share a search."""
    uses: frozenset[Need] = frozenset()
    """What it makes use of besides, where it is there."""
    check: Check = nothing_to_check
    """Raises an InputError that names what is missing."""
