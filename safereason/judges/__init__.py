"""Judges: what scores an exchange. A judge that fails leaves it unscored and says why.

A judge is named `name` or `name:argument`; `JUDGES` maps a name to what makes it. To add one, see
`docs/how-to/add-a-judge.md`.
"""

from collections.abc import Callable, Sequence

from safereason.engines.open import check_name
from safereason.errors import InputError
from safereason.judges.base import BehaviorRequest, Exchange, Judge, Verdict

__all__ = ["JUDGES", "BehaviorRequest", "Exchange", "Judge", "Verdict", "check", "open_judge", "parse"]


def _refusal(argument: str) -> Judge:
    from safereason.judges.refusal import Refusal

    return Refusal()


def _refusal_learned(argument: str) -> Judge:
    from safereason.judges.refusal_learned import LearnedRefusal

    return LearnedRefusal()


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
    from safereason.judges.as_guard import open_named
    from safereason.judges.guard import GuardJudge
    from safereason.judges.llm_judge import precision

    return GuardJudge(open_named(argument, precision=precision()))


def _harmbench(argument: str) -> Judge:
    from safereason.judges.harmbench import DEFAULT_MODEL, open_harmbench

    return open_harmbench(argument or DEFAULT_MODEL)


def _strongreject(argument: str, *, refusal: bool = False) -> Judge:
    from safereason.judges.strongreject import DEFAULT_MODEL, StrongReject

    return StrongReject(argument or DEFAULT_MODEL, refusal=refusal)


def _strongreject_rubric(argument: str, *, refusal: bool = False) -> Judge:
    from safereason.judges.strongreject import open_strongreject_rubric

    return open_strongreject_rubric(argument, refusal=refusal)


def _xstest_rubric(argument: str) -> Judge:
    from safereason.judges.xstest import open_xstest_rubric

    return open_xstest_rubric(argument)


def _rubric(argument: str) -> Judge:
    from safereason.judges.rubric import open_own

    return open_own(argument)


JUDGES: dict[str, Callable[[str], Judge]] = {
    "refusal": _refusal,
    "refusal-learned": _refusal_learned,
    "compliance": _compliance,
    "moderation": _moderation,
    "reward-model": _reward_model,
    "guard": _guard,
    "harmbench": _harmbench,
    "strongreject": _strongreject,
    "strongreject-rubric": _strongreject_rubric,
    "xstest-rubric": _xstest_rubric,
    "rubric": _rubric,
}
REFUSAL: dict[str, Callable[[str], Judge]] = {
    "strongreject": lambda argument: _strongreject(argument, refusal=True),
    "strongreject-rubric": lambda argument: _strongreject_rubric(argument, refusal=True),
}
"""Judges of harm that judge refusal too."""
TAKE_ARGUMENT = {
    "moderation": "MODEL",
    "reward-model": "ORG/NAME or path",
    "guard": "RUN, model or NAME:MODEL",
    "harmbench": "ORG/NAME or path",
    "strongreject": "ORG/NAME or path",
    "strongreject-rubric": "openai/NAME or another chat model",
    "xstest-rubric": "openai/NAME or another chat model",
    "rubric": "FILE.yaml or FILE.yaml@MODEL",
}
NEED_ARGUMENT = {"reward-model", "guard", "strongreject-rubric", "xstest-rubric", "rubric"}


def parse(spec: str) -> tuple[str, str]:
    """Name and argument of the judge `name` or `name:argument`.

    Raises:
        InputError: There is no such judge, or its argument is missing or unexpected.
    """
    name, _, argument = spec.partition(":")
    if name not in JUDGES:
        raise InputError(f"no judge is called {name!r}; available: {', '.join(JUDGES)}")
    if argument and name not in TAKE_ARGUMENT:
        raise InputError(f"judge {spec!r}: {name!r} takes no argument; write {name!r} alone")
    if not argument and name in NEED_ARGUMENT:
        raise InputError(f"judge {name!r} needs an argument; write '{name}:{TAKE_ARGUMENT[name]}'")
    return name, argument


def open_judge(spec: str, measures: Sequence[str] = ("harm", "refusal", "quality")) -> Judge:
    """Opens the judge `name` or `name:argument`.

    Args:
        spec: The judge.
        measures: What it may measure. One that judges harm as well as refusal is opened as a judge of refusal where
            harm is not among them; otherwise the caller checks what the judge measures.

    Raises:
        InputError: `parse` refuses it, or it cannot be opened.
    """
    name, argument = parse(spec)
    turned = name in REFUSAL and "refusal" in measures and "harm" not in measures
    return (REFUSAL if turned else JUDGES)[name](argument)


def check(spec: str) -> None:
    """Refuses a judge whose model cannot be had here, without loading it.

    Raises:
        InputError: `parse` refuses it, or the model is not to be had.
    """
    name, argument = parse(spec)
    if model := _model_of(name, argument):
        check_name(model)


def _model_of(name: str, argument: str) -> str | None:
    """The model that a judge loads or asks; None for one that has none, or has it behind the Moderation API."""
    match name:
        case "harmbench":
            from safereason.judges.harmbench import DEFAULT_MODEL as HARMBENCH

            return argument or HARMBENCH
        case "strongreject":
            from safereason.judges.strongreject import DEFAULT_MODEL as STRONGREJECT

            return argument or STRONGREJECT
        case "rubric":
            from safereason.judges.rubric import model_of

            return model_of(argument)
        case "guard":
            from safereason.judges.as_guard import NAMES

            other, _, model = argument.partition(":")
            return argument if other not in NAMES else model if other != "moderation" else None
        case "moderation":
            return None
    return argument or None
