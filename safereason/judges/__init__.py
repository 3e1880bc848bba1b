"""Judges: what scores an exchange. A judge that fails leaves it unscored and says why.

A judge is named `name` or `name:argument`; `JUDGES` holds the entry of each name. To add one, see
`docs/how-to/add-a-judge.md`.
"""

from safereason.judges.base import BehaviorRequest, Exchange, Judge, Measure, Verdict
from safereason.judges.registry import JUDGES, JudgeEntry, JudgeSpec, is_judge, open_judge, own_name, title_of

__all__ = [
    "JUDGES",
    "BehaviorRequest",
    "Exchange",
    "Judge",
    "JudgeEntry",
    "JudgeSpec",
    "Measure",
    "Verdict",
    "is_judge",
    "open_judge",
    "own_name",
    "title_of",
]
