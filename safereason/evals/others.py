"""The evaluations without a judge of answers to prompts: each of them is a stage of its own.

What they measure is in `guard_suite.py`, `separation.py` and `capability.py`, which import more than a listing needs.
"""

from dataclasses import dataclass

from safereason.evals.metrics import FigureInfo


@dataclass(frozen=True)
class OtherEval:
    """An evaluation that asks no judge about answers to prompts, and is a stage of its own."""

    name: str
    summary: str
    """Measurement in one line, for listings."""
    title: str
    """Name in a report."""
    reports: tuple[FigureInfo, ...]
    """Figures that may have a bar; empty where they are known only once it is measured."""


GUARD = OtherEval(
    "guard",
    "F1 of a guard's verdicts on its benchmarks",
    "Guard",
    (
        FigureInfo("f1", "F1 of unsafe", judged=False, headline=True),
        FigureInfo("f1_parsed", "F1, rows without a verdict left out", judged=False),
        FigureInfo("precision", judged=False),
        FigureInfo("recall", judged=False),
        FigureInfo("accuracy", judged=False),
        # The baselines and the share called unsafe depend on the rows: no guard is better for more of them.
        FigureInfo("f1_always_unsafe", "F1 of calling everything unsafe", better="neither", judged=False),
        FigureInfo("f1_always_safe", "F1 of calling everything safe", better="neither", judged=False),
        FigureInfo("auroc", "AUROC of the score", judged=False),
        FigureInfo("f1_pooled", "F1 of all rows together", judged=False),
        FigureInfo("unparsed", "No verdict", better="lower", judged=False),
        FigureInfo("says_unsafe", "Called unsafe, of the verdicts there are", better="neither", judged=False),
    ),
)
SEPARATION = OtherEval(
    "separation",
    "How far apart harmful and harmless prompts lie inside the model",
    "Separation",
    (
        FigureInfo("margin", "Margin, C = 1.0", unit="", judged=False),
        FigureInfo("accuracy", "Prompts on the right side, C = 1.0", judged=False),
        FigureInfo("margin_c0.1", "Margin, C = 0.1", unit="", judged=False),
        FigureInfo("accuracy_c0.1", "Prompts on the right side, C = 0.1", judged=False),
    ),
)
# Its figures are those of the tasks that the command line names.
CAPABILITY = OtherEval(
    "capability", "Accuracy on mathematics and knowledge, before and after training", "capability", ()
)
OTHER_EVALS = {other.name: other for other in (GUARD, SEPARATION, CAPABILITY)}
"""Evaluations that are no `Eval`, by name."""
