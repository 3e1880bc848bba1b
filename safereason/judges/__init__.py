"""Judges: what scores an exchange. A judge that fails leaves it unscored and says why.

A judge is named `name` or `name:argument`; `JUDGES` holds the entry of each name. To add one, see
`docs/how-to/add-a-judge.md`.
"""

from safereason.judges.base import BehaviorRequest, Exchange, Judge, Measure, Verdict
from safereason.judges.entry import JudgeArgument, JudgeEntry, ModelArgument, TextArgument
from safereason.judges.registry import JUDGES
from safereason.judges.spec import JudgeSpec, is_judge, name_of, open_judge, title_of

__all__ = [
    "JUDGES",
    "BehaviorRequest",
    "Exchange",
    "Judge",
    "JudgeArgument",
    "JudgeEntry",
    "JudgeSpec",
    "Measure",
    "ModelArgument",
    "TextArgument",
    "Verdict",
    "is_judge",
    "name_of",
    "open_judge",
    "title_of",
]
