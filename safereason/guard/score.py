r"""How sure a verdict is: the probability of `unsafe` against `safe`, read where the verdict was written.

After the last `\boxed{`, and white space if there is any, the model wrote one token that begins `safe` or `unsafe`.
What it would have written there instead, with its log-probabilities before temperature and truncation, gives
P(unsafe) / (P(unsafe) + P(safe)).
"""

import math
import re
from collections.abc import Sequence

from safereason.engines.base import Completion, TokenChoice
from safereason.text.verdict import BOX

CHOICES = 20
"""Likeliest tokens looked at: the most that OpenAI's API gives."""


def unsafe_probability(completion: Completion) -> float | None:
    """P(unsafe) in [0, 1], or None where the completion holds no box or no probabilities."""
    text = written(completion)
    box = text.rfind(BOX)
    if box < 0:
        return None
    inside = text[box + len(BOX) :]
    blanks = len(inside) - len(inside.lstrip())
    return word_probability(completion, box + len(BOX) + blanks)


def written(completion: Completion) -> str:
    """Its tokens one after another, which some tokenizers give without the spaces of the text."""
    return "".join(choice.text for choice in completion.choices)


def word_probability(completion: Completion, start: int, unsafe: str = "unsafe", safe: str = "safe") -> float | None:
    """P(`unsafe`) against `safe`, of the token that stands at character `start` of `written`; None where none does."""
    place = _place(completion.choices, start)
    if place is None:
        return None
    choice, head = place
    mass = {safe: 0.0, unsafe: 0.0}
    for text, logprob in choice.likeliest:
        word = _begins(text, head, (unsafe, safe))
        if word is not None:
            mass[word] += math.exp(logprob)
    total = sum(mass.values())
    return mass[unsafe] / total if total > 0 else None


def _place(choices: Sequence[TokenChoice], start: int) -> tuple[TokenChoice, str] | None:
    """The token that holds a character, and what of it stands before that character."""
    offset = 0
    for choice in choices:
        if offset <= start < offset + len(choice.text):
            return choice, choice.text[: start - offset].lstrip()
        offset += len(choice.text)
    return None


def _begins(text: str, head: str, words: Sequence[str]) -> str | None:
    """Which of the words a token begins, after `head`; None where it begins none."""
    text = text.lstrip()
    rest = text[len(head) :].strip().lower()
    if not text.startswith(head) or not rest:
        return None
    return next((w for w in words if w.startswith(rest) or re.match(rf"{re.escape(w)}(?!\w)", rest)), None)
