"""Over-refusal of OR-Bench's hard safe prompts, and refusal of its toxic ones (arXiv 2405.20947), by category.

`over_refusal` is 1 − `compliance_safe`: the quantity that OR-Bench reports. Deviation: (1) refusal is judged by the
recipe's judge, where OR-Bench asks a chat model; answers that it cannot score are counted apart.
"""

from collections.abc import Sequence

from safereason.evals.base import Eval, Outcome, published
from safereason.evals.figures import (
    COMPLIANCE_SAFE,
    FORMAT_FIGURES,
    REFUSAL_UNSAFE,
    complied,
    format_figures,
    refused,
    share_by_category,
    split_by_harm,
)
from safereason.evals.metrics import Figure, FigureInfo, share
from safereason.judges.base import Measure


def orbench_figures(outcomes: Sequence[Outcome], measure: Measure | None) -> list[Figure]:
    """`compliance_safe`; `over_refusal` and `refusal_unsafe`, overall and by category; then the format."""
    safe, toxic = split_by_harm(outcomes)
    return [
        # 1 − `over_refusal`, under the name that XSTest's figure has.
        share("compliance_safe", map(complied, safe)),
        *share_by_category("over_refusal", refused, safe),
        *share_by_category("refusal_unsafe", refused, toxic),
        *format_figures(outcomes),
    ]


ORBENCH = Eval(
    name="orbench",
    title="OR-Bench",
    summary="Over-refusal of OR-Bench's hard safe prompts, and refusal of its toxic ones",
    sources=published("or-bench-hard", "or-bench-toxic"),
    keeps=lambda example: True,
    figures=orbench_figures,
    reports=(
        COMPLIANCE_SAFE,
        FigureInfo("over_refusal", "Refusal of safe prompts", better="lower"),
        REFUSAL_UNSAFE,
        *FORMAT_FIGURES,
    ),
    judge=lambda section: section.refusal_judge,
    measures=("refusal",),
)
