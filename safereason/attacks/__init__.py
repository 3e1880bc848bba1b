"""Attacks: searches for a prompt that elicits a behavior. `ATTACKS` maps names to attacks."""

from difflib import get_close_matches

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
from safereason.attacks.base import Attack, Setup, Step, TestCase
from safereason.errors import InputError

__all__ = ["ATTACKS", "Attack", "Setup", "Step", "TestCase", "get"]

# In the order of their cost: those that ask no model first, and those that need its weights last.
ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
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
    )
}


def get(name: str) -> Attack:
    """The attack of this name.

    Raises:
        InputError: The name is unknown.
    """
    if name in ATTACKS:
        return ATTACKS[name]
    close = get_close_matches(name, ATTACKS, n=1)
    hint = f"available: {', '.join(ATTACKS)}"
    if close:
        hint = f"did you mean {close[0]}?"
    raise InputError(f"no attack is called {name!r}; {hint}")
