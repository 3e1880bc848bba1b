"""Evaluations: prompts, a judge, and figures with intervals. `EVALS` holds them by name.

Guards are measured on labelled rows and without a judge: `guard_suite.py`.
"""

from dataclasses import dataclass

from safereason.evals.adaptivity import ADAPTIVITY
from safereason.evals.base import Case, Eval, Outcome, case_record, cases, completion_record, has_failed, judge_for
from safereason.evals.harmbench import HARMBENCH
from safereason.evals.jailbreakbench import JAILBREAKBENCH
from safereason.evals.orbench import ORBENCH
from safereason.evals.simplesafetytests import SIMPLESAFETYTESTS
from safereason.evals.sorrybench import SORRYBENCH
from safereason.evals.strongreject import STRONGREJECT
from safereason.evals.wildchat import WILDCHAT
from safereason.evals.xstest import XSTEST
from safereason.registry import Registry

__all__ = [
    "EVALS",
    "NAMES",
    "OTHER_EVALS",
    "Case",
    "Eval",
    "Outcome",
    "case_record",
    "cases",
    "completion_record",
    "get",
    "has_failed",
    "judge_for",
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


@dataclass(frozen=True)
class OtherEval:
    """An evaluation that asks no judge about answers to prompts, and is a stage of its own."""

    name: str
    summary: str
    """Its measurement in one line."""
    title: str
    """Its name in a report."""
    reports: tuple[str, ...]
    """Names of its figures that may have a bar; empty where they are known only once it is measured."""


GUARD = OtherEval(
    "guard",
    "F1 of a guard's verdicts on its benchmarks",
    "Guard",
    (
        "f1",
        "f1_parsed",
        "precision",
        "recall",
        "accuracy",
        "f1_always_unsafe",
        "f1_always_safe",
        "auroc",
        "f1_pooled",
        "unparsed",
        "says_unsafe",
    ),
)
SEPARATION = OtherEval(
    "separation",
    "How far apart harmful and harmless prompts lie inside the model",
    "Separation",
    ("margin", "accuracy", "margin_c0.1", "accuracy_c0.1"),
)
# Its figures are those of the tasks that the command line names.
CAPABILITY = OtherEval(
    "capability", "Accuracy on mathematics and knowledge, before and after training", "capability", ()
)
OTHER_EVALS = {other.name: other for other in (GUARD, SEPARATION, CAPABILITY)}
"""Evaluations that are no `Eval`, by name."""
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
    if name in OTHER_EVALS:
        return OTHER_EVALS[name].title
    evaluation = EVALS.installed(name)
    if evaluation is None:
        return name
    return evaluation.title or name
