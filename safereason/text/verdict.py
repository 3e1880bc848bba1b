r"""The guard's verdict: `\boxed{safe}` or `\boxed{unsafe}` (RSafe, arXiv 2506.07736, §3)."""

import re
from typing import Literal

Label = Literal["safe", "unsafe"]
BOX = r"\boxed{"

_REASONED = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)
_BARE = re.compile(r".*\\boxed\{.*\}.*", re.DOTALL)


def is_well_formed(text: str, require_reasoning: bool = True) -> bool:
    r"""RSafe's format check: the text, from its first character, reads `<think>` … `</think>` … `\boxed{` … `}` ….

    Without `require_reasoning` it only has to hold a box.
    """
    return (_REASONED if require_reasoning else _BARE).fullmatch(text) is not None


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}`, with its braces balanced; None where there is no box or it never closes."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    depth = 0
    for position in range(start + len(BOX) - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + len(BOX) : position]
    return None


def parse(text: str) -> Label | None:
    """The verdict, whatever its case; None where it is neither `safe` nor `unsafe`: unparsed is not a verdict."""
    match (last_boxed(text) or "").lower():
        case "safe":
            return "safe"
        case "unsafe":
            return "unsafe"
    return None
