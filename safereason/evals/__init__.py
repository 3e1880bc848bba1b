"""Evaluations: prompts, a judge, and figures with intervals. `EVALS` maps a name to the evaluation."""

from safereason.errors import InputError
from safereason.evals.base import Case, Eval, Outcome, cases
from safereason.evals.harmbench import HARMBENCH
from safereason.evals.xstest import XSTEST

__all__ = ["EVALS", "NOT_YET", "Case", "Eval", "Outcome", "cases", "get"]

EVALS: dict[str, Eval] = {evaluation.name: evaluation for evaluation in (HARMBENCH, XSTEST)}
NOT_YET = ("strongreject", "wildchat", "orbench", "guard", "adaptivity", "separation", "capability")


def get(name: str) -> Eval:
    """The evaluation of this name.

    Raises:
        InputError: There is none.
    """
    if name in EVALS:
        return EVALS[name]
    problem = f"eval {name!r} is not part of this version yet" if name in NOT_YET else f"no eval is called {name!r}"
    raise InputError(f"{problem}; available: {', '.join(EVALS)}")
