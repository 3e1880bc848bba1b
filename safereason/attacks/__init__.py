"""Attacks: what finds, for a behavior, a prompt that elicits it. `ATTACKS` maps a name to the attack."""

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
        InputError: There is none.
    """
    if name in ATTACKS:
        return ATTACKS[name]
    close = get_close_matches(name, ATTACKS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"available: {', '.join(ATTACKS)}"
    raise InputError(f"no attack is called {name!r}; {hint}")
