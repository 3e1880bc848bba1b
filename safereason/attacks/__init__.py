"""Attacks: searches for a prompt that elicits a behavior. `ATTACKS` holds them by name."""

from safereason.attacks import (
    autodan,
    best_of_n,
    direct,
    embedding,
    few_shot,
    gcg,
    human,
    pair,
    pap,
    prefill,
    random_search,
    tap,
    thought_hijack,
)
from safereason.attacks.base import Attack, SearchStep, Setup, TestCase
from safereason.registry import Registry

__all__ = ["ATTACKS", "Attack", "SearchStep", "Setup", "TestCase", "get"]

# In the order of their cost: those that need no model first, and those that need its weights last.
ATTACKS: Registry[Attack] = Registry(
    "attack",
    Attack,
    (
        direct.ATTACK,
        prefill.ATTACK,
        thought_hijack.ATTACK,
        few_shot.FEW_SHOT,
        few_shot.MANY_SHOT,
        human.ATTACK,
        pap.ATTACK,
        best_of_n.ATTACK,
        pair.ATTACK,
        tap.ATTACK,
        random_search.ATTACK,
        autodan.ATTACK,
        gcg.ATTACK,
        embedding.ATTACK,
    ),
)


def get(name: str) -> Attack:
    """The attack of this name, or at this dotted path `module:NAME`.

    Raises:
        InputError: The name is unknown, or another package's attack cannot be imported.
    """
    return ATTACKS.find(name)
