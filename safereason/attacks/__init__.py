"""Attacks: what finds, for a behavior, a prompt that elicits it. `ATTACKS` maps a name to the attack."""

from safereason.attacks import direct
from safereason.attacks.base import Attack, Setup, Step, TestCase
from safereason.errors import InputError

__all__ = ["ATTACKS", "NOT_YET", "Attack", "Setup", "Step", "TestCase", "get"]

ATTACKS: dict[str, Attack] = {attack.name: attack for attack in (direct.ATTACK,)}
NOT_YET = ("prefill", "gcg", "autodan", "pair", "tap", "pap", "best-of-n", "rainbow")


def get(name: str) -> Attack:
    """The attack of this name.

    Raises:
        InputError: There is none.
    """
    if name in ATTACKS:
        return ATTACKS[name]
    problem = f"attack {name!r} is not part of this version yet" if name in NOT_YET else f"no attack is called {name!r}"
    raise InputError(f"{problem}; available: {', '.join(ATTACKS)}")
