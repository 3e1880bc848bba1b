"""The contract of an attack: it takes behaviors and yields the best test cases so far after each step of its search."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from safereason.attacks.meter import Meter
from safereason.data.example import Example
from safereason.engines.base import Engine, Message, Sampling
from safereason.engines.open import open_engine
from safereason.engines.spec import ModelSpec

Need = Literal["answers", "likelihood", "weights", "attacker", "score"]
"""A resource of an attack: the target model's answers, its likelihoods or its weights; an attacker; a judge's score."""
ScoreFunction = Callable[[Example, Sequence[str]], list[float | None]]
"""A judge: the score of each answer to a behavior, from 0 to 1 (full compliance); None for an unscored answer."""


class AttackSettings(BaseModel):
    """The settings of one attack. Each attack has a subclass, and each field names its unit in its docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """Further models that the search loads: they have to be there, and belong to a run's identity."""
        return ()


@dataclass(frozen=True)
class TestCase:
    """The prompt that an attack found for one behavior, with the context it needs."""

    # Without this, pytest collects the class because of its name.
    __test__ = False

    behavior_id: str
    attack: str
    prompt: str
    """The last message of the user, which the attack wrote or left as it is."""
    turns: tuple[Message, ...] = ()
    """Messages before the prompt, such as examples of compliance."""
    prefix: str | None = None
    """Beginning of the target model's completion. It replaces the evaluation's own prefix; None keeps that one."""
    completion: str | None = None
    """Saved output that no text prompt can reproduce, such as that of a soft prompt."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further JSON values about the case, such as its loss, its score or the technique."""


@dataclass(frozen=True)
class SearchStep:
    """The state of a search after a search step."""

    number: int
    """Number of the search step; 0 for the state before the first one."""
    cases: tuple[TestCase, ...]
    """The best test cases so far: one for each behavior, in the order of the behaviors."""
    value: float | None = None
    """The loss or the score of the best; None if nothing was measured or the judge gave no score."""


ANSWERS = Sampling(temperature=0.0, max_new_tokens=256)


@dataclass(frozen=True)
class Setup:
    """The models, the seed and the budget that a search works with. Engines count their own use in `meter`."""

    target_model: Engine
    """The target model, which is under attack."""
    prefix: str = ""
    """Generation prefix of the target model, such as an opening tag of reasoning."""
    sampling: Sampling = ANSWERS
    """Sampling of the target model's answers."""
    seed: int = 0
    """Seed of this group of behaviors: equal seeds give equal test cases."""
    attacker: Engine | None = None
    """The model that writes prompts."""
    score: ScoreFunction | None = None
    """Scores answers to a behavior, where a judge leads the search."""
    others: tuple[Engine, ...] = ()
    """Further models that a suffix is optimised on, so that it transfers."""
    meter: Meter = field(default_factory=Meter)
    """Counter of queries and tokens."""
    open_model: Callable[[ModelSpec], Engine] = open_engine
    """Opens a further model, one of those that the settings name."""


# `Any` is the settings class of the one attack. `AttackSettings` here would refuse functions
# that take a subclass of it.
Search = Callable[[Sequence[Example], Any, Setup], Iterator[SearchStep]]
"""A search: takes behaviors that share it, the settings and the setup. Its last step holds the result."""


Check = Callable[[Sequence[Example], Any, frozenset[Need]], None]
"""A check before any model is loaded: takes all behaviors, the settings and the available resources.

It raises what the search would raise later."""


def check_nothing(behaviors: Sequence[Example], settings: AttackSettings, available: frozenset[Need]) -> None:
    """The check of an attack that accepts all inputs."""


def group_separately(behaviors: Sequence[Example], settings: AttackSettings) -> list[list[Example]]:
    """One group, and so one search, for each behavior."""
    return [[behavior] for behavior in behaviors]


@dataclass(frozen=True)
class Attack:
    """One attack. A new one is a file with an `ATTACK` in it, and a line in `ATTACKS`."""

    name: str
    summary: str
    """One line for lists of attacks."""
    search: Search
    needs: frozenset[Need] = frozenset()
    """Resources without which the attack cannot run."""
    settings: type[AttackSettings] = AttackSettings
    groups: Callable[[Sequence[Example], Any], list[list[Example]]] = group_separately
    """Splits behaviors into groups that share a search."""
    uses: frozenset[Need] = frozenset()
    """Resources that the attack uses if they are available."""
    check: Check = check_nothing
    """Raises an InputError that names the missing input."""
