"""What a genetic search does to prompts: sentences crossed between two, words replaced by others of a like meaning.

A prompt here is a frame, a text with one `{behavior}`; whatever is done to it keeps that.
"""

import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from safereason.attacks.frames import SLOT

MOST_WORDS = 5
"""Words replaced in a paragraph at once, as in the original."""
_SENTENCE = re.compile(r"[^.!?\n]*[.!?\n]+\s*|[^.!?\n]+\Z")
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with the white space after it: joined, they are the text."""
    return _SENTENCE.findall(text)


def chances(fitness: Sequence[float]) -> list[float]:
    """The softmax of fitness: how likely each is to be drawn at the roulette wheel."""
    most = max(fitness)
    weights = [math.exp(value - most) for value in fitness]
    return [weight / sum(weights) for weight in weights]


def crossed(one: str, other: str, points: int, rng: random.Random) -> tuple[str, str]:
    """Two frames that share out the sentences of two, in what is said before the behavior and in what is said after.

    Args:
        one: A frame.
        other: Another one.
        points: Places at most where the sides may change.
        rng: What decides.
    """
    before, after = (
        _crossed(sentences(a), sentences(b), points, rng)
        for a, b in zip(one.split(SLOT), other.split(SLOT), strict=True)
    )
    return before[0] + SLOT + after[0], before[1] + SLOT + after[1]


def _crossed(one: list[str], other: list[str], points: int, rng: random.Random) -> tuple[str, str]:
    """Each stretch between two points goes to either child; the last one reaches to its own parent's end."""
    inside = range(1, min(len(one), len(other)))
    cuts = [0, *sorted(rng.sample(inside, min(points, len(inside)))), None]
    children: tuple[list[str], list[str]] = ([], [])
    for start, end in pairwise(cuts):
        stretches = [one[start:end], other[start:end]]
        if rng.random() < 0.5:
            stretches.reverse()
        for child, stretch in zip(children, stretches, strict=True):
            child += stretch
    return "".join(children[0]), "".join(children[1])


def synonyms(lines: Iterable[str]) -> dict[str, list[str]]:
    """Each word of a line with all words of that line; of two lines with one word, the later holds."""
    groups = [line.lower().split() for line in lines]
    return {word: group for group in groups for word in group}


@dataclass
class Words:
    """How well prompts do that have a word in them: the momentum of word scores of the hierarchical variant."""

    synonyms: Mapping[str, Sequence[str]]
    """Words that may stand for a word, itself among them."""
    scores: dict[str, float] = field(default_factory=dict)
    """By word in lower case."""

    def learn(self, frames: Sequence[str], fitness: Sequence[float]) -> None:
        """Moves each word's score halfway to the mean fitness of the frames that have it."""
        found: dict[str, list[float]] = {}
        for frame, value in zip(frames, fitness, strict=True):
            for word in dict.fromkeys(_WORD.findall(frame.replace(SLOT, " ").lower())):
                found.setdefault(word, []).append(value)
        for word, values in found.items():
            mean = fmean(values)
            self.scores[word] = (self.scores.get(word, mean) + mean) / 2

    def replaced(self, frame: str, rate: float, rng: random.Random) -> str:
        """A frame in which words that have synonyms give way to one of them, drawn by their scores.

        Args:
            frame: The frame.
            rate: How likely each such word is to be drawn anew, up to `MOST_WORDS` of a paragraph.
            rng: What decides.
        """
        sides = (side.split("\n\n") for side in frame.split(SLOT))
        return SLOT.join("\n\n".join(self._replaced(text, rate, rng) for text in side) for side in sides)

    def _replaced(self, paragraph: str, rate: float, rng: random.Random) -> str:
        places = [match for match in _WORD.finditer(paragraph) if match[0].lower() in self.synonyms]
        chosen = [place for place in places if rng.random() < rate]
        chosen = rng.sample(chosen, min(MOST_WORDS, len(chosen)))
        for place in sorted(chosen, key=lambda match: -match.start()):  # from the end, so that no place moves
            word = self._drawn(self.synonyms[place[0].lower()], rng)
            word = word.capitalize() if place[0][0].isupper() else word
            paragraph = paragraph[: place.start()] + word + paragraph[place.end() :]
        return paragraph

    def _drawn(self, words: Sequence[str], rng: random.Random) -> str:
        """A word none has seen yet counts as the worst that was."""
        worst = min(self.scores.values(), default=0.0)
        return rng.choices(words, chances([self.scores.get(word, worst) for word in words]))[0]
