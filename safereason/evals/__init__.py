"""Evaluations: prompts, a judge, and figures with intervals. `EVALS` maps a name to the evaluation.

Guards are measured on labelled rows and without a judge: `guard_suite.py`.
"""

from safereason.errors import InputError
from safereason.evals.adaptivity import ADAPTIVITY
from safereason.evals.base import Case, Eval, Outcome, cases, has_failed, judge_for, record
from safereason.evals.harmbench import HARMBENCH
from safereason.evals.jailbreakbench import JAILBREAKBENCH
from safereason.evals.orbench import ORBENCH
from safereason.evals.simplesafetytests import SIMPLESAFETYTESTS
from safereason.evals.sorrybench import SORRYBENCH
from safereason.evals.strongreject import STRONGREJECT
from safereason.evals.wildchat import WILDCHAT
from safereason.evals.xstest import XSTEST

__all__ = ["EVALS", "NAMES", "Case", "Eval", "Outcome", "cases", "get", "has_failed", "judge_for", "record"]

_ALL = (
    HARMBENCH,
    STRONGREJECT,
    JAILBREAKBENCH,
    SORRYBENCH,
    SIMPLESAFETYTESTS,
    XSTEST,
    ORBENCH,
    WILDCHAT,
    ADAPTIVITY,
)
# Listings, docs and error messages follow this order.
EVALS: dict[str, Eval] = {evaluation.name: evaluation for evaluation in _ALL}
"""Evaluations by name."""
# In the last three no judge scores answers to prompts, so that they are no `Eval`. Each is a stage of its own.
NAMES = (*EVALS, "guard", "separation", "capability")
"""Names of all evaluations that `safereason eval` can run."""


def get(name: str) -> Eval:
    """The evaluation of this name.

    Raises:
        InputError: No evaluation has this name.
    """
    if name in EVALS:
        return EVALS[name]
    raise InputError(f"no eval is called {name!r}; available: {', '.join(EVALS)}")
