"""Evaluations: prompts, a judge, and figures with intervals. `EVALS` maps a name to the evaluation.

Guards are measured apart, on labelled rows and without a judge: `guard_suite.py`.
"""

from safereason.errors import InputError
from safereason.evals.base import Case, Eval, Outcome, cases
from safereason.evals.harmbench import HARMBENCH
from safereason.evals.xstest import XSTEST

__all__ = ["EVALS", "NAMES", "NOT_YET", "Case", "Eval", "Outcome", "cases", "get"]

EVALS: dict[str, Eval] = {evaluation.name: evaluation for evaluation in (HARMBENCH, XSTEST)}
NAMES = (*EVALS, "guard")
"""What `safereason eval` can measure."""
NOT_YET = ("strongreject", "wildchat", "orbench", "adaptivity", "separation", "capability")


def get(name: str) -> Eval:
    """The evaluation of this name.

    Raises:
        InputError: There is none.
    """
    if name in EVALS:
        return EVALS[name]
    problem = f"eval {name!r} is not part of this version yet" if name in NOT_YET else f"no eval is called {name!r}"
    raise InputError(f"{problem}; available: {', '.join(EVALS)}")
