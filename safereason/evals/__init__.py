"""Evaluations: prompts, a judge, and figures with intervals. `EVALS` holds them by name.

Guards are measured on labelled rows and without a judge: `guard_suite.py`.
"""

from safereason.evals.adaptivity import ADAPTIVITY
from safereason.evals.base import Case, Eval, Outcome, case_record, cases, completion_record, has_failed, judge_for
from safereason.evals.harmbench import HARMBENCH
from safereason.evals.jailbreakbench import JAILBREAKBENCH
from safereason.evals.metrics import FigureInfo
from safereason.evals.orbench import ORBENCH
from safereason.evals.others import CAPABILITY, GUARD, OTHER_EVALS, SEPARATION, OtherEval
from safereason.evals.simplesafetytests import SIMPLESAFETYTESTS
from safereason.evals.sorrybench import SORRYBENCH
from safereason.evals.strongreject import STRONGREJECT
from safereason.evals.wildchat import WILDCHAT
from safereason.evals.xstest import XSTEST
from safereason.registry import Registry

__all__ = [
    "CAPABILITY",
    "EVALS",
    "GUARD",
    "NAMES",
    "OTHER_EVALS",
    "SEPARATION",
    "Case",
    "Eval",
    "OtherEval",
    "Outcome",
    "case_record",
    "cases",
    "completion_record",
    "figure_info",
    "get",
    "has_failed",
    "judge_for",
    "reports_of",
    "title_of",
]

# Listings, docs and error messages follow this order.
EVALS: Registry[Eval] = Registry(
    "eval",
    Eval,
    (
        HARMBENCH,
        STRONGREJECT,
        JAILBREAKBENCH,
        SORRYBENCH,
        SIMPLESAFETYTESTS,
        XSTEST,
        ORBENCH,
        WILDCHAT,
        ADAPTIVITY,
    ),
)
"""Evaluations by name."""

NAMES = (*EVALS, *OTHER_EVALS)
"""Names of all evaluations of this package."""


def get(name: str) -> Eval:
    """The evaluation of this name, or at this dotted path `module:NAME`.

    Raises:
        InputError: No evaluation has this name, or another package's cannot be imported.
    """
    return EVALS.find(name)


def title_of(name: str) -> str:
    """The title of an evaluation that a record names; the name itself where none is known by it."""
    evaluation = _recorded(name)
    if evaluation is None:
        return name
    return evaluation.title or name


def reports_of(name: str) -> tuple[FigureInfo, ...]:
    """The figures of an evaluation that a record names, the main one first; none where none is known by it."""
    evaluation = _recorded(name)
    if evaluation is None:
        return ()
    return evaluation.reports


def figure_info(evaluation: str, figure: str) -> FigureInfo:
    """The description of a figure that a record names; that of a share where the evaluation does not name it."""
    # The figures of `capability` have names of the harness, and a record may be of a package that is not installed.
    for info in reports_of(evaluation):
        if info.name == figure:
            return info
    return FigureInfo(figure)


def _recorded(name: str) -> Eval | OtherEval | None:
    """The evaluation that a record names; None where none is built in or installed under it."""
    return OTHER_EVALS.get(name) or EVALS.installed(name)
