"""Judges: what scores an exchange. A judge that fails leaves it unscored and says why.

A judge is named `name` or `name:argument`; `JUDGES` maps a name to what makes it. To add one, see
`docs/how-to/add-a-judge.md`.
"""

from collections.abc import Callable

from safereason.errors import InputError
from safereason.judges.base import Exchange, Judge, Verdict, Wanted

__all__ = ["JUDGES", "Exchange", "Judge", "Verdict", "Wanted", "open_judge", "parse"]


def _refusal(argument: str) -> Judge:
    from safereason.judges.refusal import Refusal

    return Refusal()


def _compliance(argument: str) -> Judge:
    from safereason.judges.refusal import Compliance

    return Compliance()


def _moderation(argument: str) -> Judge:
    from safereason.judges.moderation import DEFAULT_MODEL, Moderation

    return Moderation(argument or DEFAULT_MODEL)


def _reward_model(argument: str) -> Judge:
    from safereason.judges.reward_model import RewardModel

    return RewardModel(argument)


def _guard(argument: str) -> Judge:
    import torch

    from safereason.judges.as_guard import open_named
    from safereason.judges.guard import Guard

    return Guard(open_named(argument, precision="bf16" if torch.cuda.is_available() else "fp32"))


JUDGES: dict[str, Callable[[str], Judge]] = {
    "refusal": _refusal,
    "compliance": _compliance,
    "moderation": _moderation,
    "reward-model": _reward_model,
    "guard": _guard,
}
TAKE_ARGUMENT = {"moderation": "MODEL", "reward-model": "ORG/NAME or path", "guard": "RUN, model or NAME:MODEL"}
NEED_ARGUMENT = {"reward-model", "guard"}
NOT_YET = ("harmbench", "strongreject", "chat")


def parse(spec: str) -> tuple[str, str]:
    """Name and argument of the judge `name` or `name:argument`.

    Raises:
        InputError: There is no such judge, or its argument is missing or unexpected.
    """
    name, _, argument = spec.partition(":")
    if name in NOT_YET:
        raise InputError(f"judge {name!r} is not part of this version yet; available: {', '.join(JUDGES)}")
    if name not in JUDGES:
        raise InputError(f"no judge is called {name!r}; available: {', '.join(JUDGES)}")
    if argument and name not in TAKE_ARGUMENT:
        raise InputError(f"judge {spec!r}: {name!r} takes no argument; write {name!r} alone")
    if not argument and name in NEED_ARGUMENT:
        raise InputError(f"judge {name!r} needs an argument; write '{name}:{TAKE_ARGUMENT[name]}'")
    return name, argument


def open_judge(spec: str) -> Judge:
    """Opens the judge `name` or `name:argument`.

    Raises:
        InputError: `parse` refuses it, or it cannot be opened.
    """
    name, argument = parse(spec)
    return JUDGES[name](argument)
