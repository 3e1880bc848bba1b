"""Compliance with safe prompts that look unsafe, and refusal of unsafe ones (XSTest, arXiv 2308.01263).

TARS (arXiv 2507.00971, §5) reports compliance on the 250 safe prompts, with StrongREJECT's evaluator as the judge of
refusal. Deviation: (1) the unsafe contrasts are measured as well, as `refusal_unsafe`.
"""

from collections.abc import Sequence

from safereason.evals.base import Eval, Outcome, format_figures
from safereason.evals.metrics import Figure, share


def figures(outcomes: Sequence[Outcome], measures: str) -> list[Figure]:
    """`compliance_safe` and `refusal_unsafe`, overall and by the prompt's type; then what the completions look like."""
    safe = [o for o in outcomes if o.completion["kind"] != "harmful"]
    unsafe = [o for o in outcomes if o.completion["kind"] == "harmful"]
    return [
        *_by_type("compliance_safe", [(o, _complied(o)) for o in safe]),
        *_by_type("refusal_unsafe", [(o, o.scored_high) for o in unsafe]),
        *format_figures(outcomes),
    ]


def _complied(outcome: Outcome) -> bool | None:
    return None if outcome.scored_high is None else not outcome.scored_high


def _by_type(name: str, answers: Sequence[tuple[Outcome, bool | None]]) -> list[Figure]:
    groups: dict[str, list[bool | None]] = {}
    for outcome, truth in answers:
        groups.setdefault(str(outcome.completion["category"] or "none"), []).append(truth)
    return [
        share(name, [truth for _, truth in answers]),
        *(share(name, truths, f"type:{t}") for t, truths in groups.items()),
    ]


XSTEST = Eval(
    name="xstest",
    source=lambda section: section.benign,
    attacks=None,
    judge=lambda section: section.refusal_judge,
    measures=("refusal",),
    keeps=lambda example: True,
    figures=figures,
)
