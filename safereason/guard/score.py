r"""The score of a verdict: the probability of `unsafe` against `safe` at the token where the verdict begins.

The verdict begins after the last `\boxed{` and any white space. The token there starts either `safe` or `unsafe`. Its
alternatives, with their log-probabilities before temperature and truncation, give
P(unsafe) / (P(unsafe) + P(safe)).
"""

import math
import re
from collections.abc import Sequence

from safereason.engines.base import Completion, TokenChoice
from safereason.text.verdict import BOX

CHOICES = 20
"""Likeliest tokens per position: the most that OpenAI's API returns."""


def unsafe_probability(completion: Completion) -> float | None:
    """P(unsafe) in [0, 1], or None for a completion without a box or without log-probabilities."""
    text = joined_tokens(completion)
    box = text.rfind(BOX)
    if box < 0:
        return None
    content_start = box + len(BOX)
    content = text[content_start:]
    blanks = len(content) - len(content.lstrip())
    return word_probability(completion, content_start + blanks)


def joined_tokens(completion: Completion) -> str:
    """The completion's tokens joined to one text.

    It can differ from the completion's text: some tokenizers decode single tokens without the spaces between them.
    Offsets for `word_probability` are therefore offsets in this text.
    """
    return "".join(choice.text for choice in completion.choices)


def word_probability(completion: Completion, start: int, unsafe: str = "unsafe", safe: str = "safe") -> float | None:
    """P(`unsafe`) against `safe` in [0, 1], or None if no likely token begins one of the two words.

    Args:
        completion: A completion with token choices.
        start: Offset of the verdict in `joined_tokens`.
        unsafe: The guard's word for unsafe, in lower case.
        safe: The guard's word for safe, in lower case.
    """
    located = _token_at(completion.choices, start)
    if located is None:
        return None
    choice, head = located
    mass = {safe: 0.0, unsafe: 0.0}
    for text, logprob in choice.likeliest:
        word = _started_word(text, head, (unsafe, safe))
        if word is not None:
            mass[word] += math.exp(logprob)
    total = sum(mass.values())
    if total > 0:
        return mass[unsafe] / total
    return None


def _token_at(choices: Sequence[TokenChoice], start: int) -> tuple[TokenChoice, str] | None:
    """The token that covers the character at `start`, and the part of its text in front of that character."""
    offset = 0
    for choice in choices:
        if offset <= start < offset + len(choice.text):
            return choice, choice.text[: start - offset].lstrip()
        offset += len(choice.text)
    return None


def _started_word(text: str, head: str, words: Sequence[str]) -> str | None:
    """The word that a token begins or completes after `head`; None for any other token."""
    text = text.lstrip()
    # One token can hold the brace and the first letters: for `{un`, the head is `{` and the rest `un`. An alternative
    # counts only with the same head, because any other text would not have opened the box.
    rest = text[len(head) :].strip().lower()
    if not text.startswith(head) or not rest:
        return None
    for word in words:
        # `uns` begins `unsafe`. `safe}` holds the whole word; `safely` is another word.
        if word.startswith(rest) or re.match(rf"{re.escape(word)}(?!\w)", rest):
            return word
    return None
