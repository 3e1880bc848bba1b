r"""Completions split into reasoning and answer.

A well-formed completion reads `<think>\n` reasoning `\n</think>\n\n` answer (TARS, arXiv 2507.00971, §4 and app. F).
"""

from dataclasses import dataclass

OPEN = "<think>"
CLOSE = "</think>"
PREFIX = "<think>\n"
DELIMITER = "\n</think>\n\n"


@dataclass(frozen=True)
class Reasoned:
    """The two parts of a completion."""

    reasoning: str
    """The text between the tags; empty where the reasoning was never closed."""
    answer: str
    """The part for the user, which judges see; the whole text where the reasoning was never closed."""
    closed: bool
    """Whether the reasoning was closed."""


def split(text: str, strict: bool = False) -> Reasoned:
    r"""Splits a completion into reasoning and answer.

    Evaluation splits at the first `</think>` and trims white space. `strict` splits as TARS's training reward does:
    at the first `\n</think>\n\n`, to the letter. Where the delimiter is missing all of the text is the answer, so
    that a model that never closes its reasoning is judged on everything it wrote.
    """
    delimiter = CLOSE
    if strict:
        delimiter = DELIMITER
    before, separator, after = text.partition(delimiter)
    if not separator:
        return Reasoned(reasoning="", answer=text, closed=False)
    if strict:
        # Nothing is trimmed: training rewards the exact form that SFT has taught.
        return Reasoned(reasoning=before.removeprefix(PREFIX), answer=after, closed=True)
    return Reasoned(reasoning=before.strip().removeprefix(OPEN).strip(), answer=after.strip(), closed=True)


def join(reasoning: str, answer: str) -> str:
    """The training text of one trace, the inverse of `split`."""
    return f"{PREFIX}{reasoning}{DELIMITER}{answer}"


def is_well_formed(text: str) -> bool:
    """TARS's format check: exactly one `<think>` and exactly one `</think>`, in this order."""
    return text.count(OPEN) == 1 and text.count(CLOSE) == 1 and text.index(OPEN) < text.index(CLOSE)
