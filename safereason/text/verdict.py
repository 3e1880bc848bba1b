r"""The guard's verdict: `\boxed{safe}` or `\boxed{unsafe}` (RSafe, arXiv 2506.07736, §3)."""

from collections.abc import Sequence
from typing import Literal

from safereason.text.reasoning import CLOSE, OPEN

Label = Literal["safe", "unsafe"]
"""The class of a prompt or a response, as people or a guard tell it."""
BOX = r"\boxed{"


def is_well_formed(text: str, require_reasoning: bool = True) -> bool:
    r"""RSafe's format check: the text, from its first character, reads `<think>` … `</think>` … `\boxed{` … `}` ….

    Without `require_reasoning` it only has to hold a box.
    """
    if not require_reasoning:
        return _in_order(text, (BOX, "}"))
    return text.startswith(OPEN) and _in_order(text, (OPEN, CLOSE, BOX, "}"))


def _in_order(text: str, parts: Sequence[str]) -> bool:
    """Whether the parts follow each other in a text, with anything between them."""
    end = 0
    for part in parts:
        start = text.find(part, end)
        if start < 0:
            return False
        end = start + len(part)
    return True


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}`, with its braces balanced; None where there is no box or it never closes."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    depth = 0
    # Counted from the box's own brace on, so that braces inside, as of `\\text{safe}`, do not end it.
    for position in range(start + len(BOX) - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + len(BOX) : position]
    return None


def parse(text: str) -> Label | None:
    """The verdict in the last box, ignoring case and white space; None where it is neither word."""
    match (last_boxed(text) or "").strip().lower():
        case "safe":
            return "safe"
        case "unsafe":
            return "unsafe"
    return None
