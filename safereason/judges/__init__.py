"""Judges: what scores an exchange. A judge that fails leaves it unscored and says why.

A judge is named `name` or `name:argument`. `JUDGES` holds the entry of each name, and a `JudgeSpec` is a name that was
read. Imports go one way: `spec` imports `registry`, `registry` imports `entry`, and `entry` imports `base`. The module
of a judge is imported when it is opened. To add one, see `docs/how-to/add-a-judge.md`.
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
