"""Operators of a genetic search over prompts: crossover of sentences, and replacement of words by synonyms.

A prompt here is a frame, a text with one `{behavior}`, and every operator keeps that slot.
"""

import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from safereason.attacks.frames import BEHAVIOR_SLOT

MAX_REPLACED_WORDS = 5
"""Most words that are replaced in a paragraph at once, as in the original."""
_SENTENCE = re.compile(r"[^.!?\n]*[.!?\n]+\s*|[^.!?\n]+\Z")
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each with the white space after it: joined, they are the text."""
    return _SENTENCE.findall(text)


def softmax_weights(fitness: Sequence[float]) -> list[float]:
    """The softmax of fitness values: the probabilities of the roulette wheel."""
    # The largest value is subtracted, so that `exp` of very low log-likelihoods does not turn all weights into 0.
    highest = max(fitness)
    weights = [math.exp(value - highest) for value in fitness]
    total = sum(weights)
    return [weight / total for weight in weights]


def cross_frames(one: str, other: str, points: int, rng: random.Random) -> tuple[str, str]:
    """Two children of two frames, which share out the parents' sentences.

    Sentences before the behavior are crossed with sentences before it, and those after it likewise.

    Args:
        one: A frame.
        other: Another one.
        points: Maximum number of crossover points on each side of the behavior.
        rng: Random numbers.
    """
    # The two sides are crossed apart, so that each child has exactly one slot.
    one_before, one_after = one.split(BEHAVIOR_SLOT)
    other_before, other_after = other.split(BEHAVIOR_SLOT)
    first_before, second_before = _cross_sentences(
        split_sentences(one_before), split_sentences(other_before), points, rng
    )
    first_after, second_after = _cross_sentences(split_sentences(one_after), split_sentences(other_after), points, rng)
    return first_before + BEHAVIOR_SLOT + first_after, second_before + BEHAVIOR_SLOT + second_after


def _cross_sentences(one: list[str], other: list[str], points: int, rng: random.Random) -> tuple[str, str]:
    """Two texts of the sentences of two lists. Each stretch between two points goes to either text."""
    # Points that both texts have, with at least one sentence before the first point.
    inside = range(1, min(len(one), len(other)))
    cuts = sorted(rng.sample(inside, min(points, len(inside))))
    children: tuple[list[str], list[str]] = ([], [])
    # The last stretch is open, so that the sentences of the longer parent are not lost.
    for start, end in pairwise([0, *cuts, None]):
        stretches = [one[start:end], other[start:end]]
        if rng.random() < 0.5:
            stretches.reverse()
        for child, stretch in zip(children, stretches, strict=True):
            child += stretch
    return "".join(children[0]), "".join(children[1])


def read_synonyms(lines: Iterable[str]) -> dict[str, list[str]]:
    """The synonyms of each word: all words of its line, itself included. A word's last line counts."""
    synonyms: dict[str, list[str]] = {}
    for line in lines:
        words = line.lower().split()
        for word in words:
            synonyms[word] = words
    return synonyms


@dataclass
class WordScores:
    """The momentum word scores of the hierarchical variant: a word's score is the fitness of prompts with it."""

    synonyms: Mapping[str, Sequence[str]]
    """Replacements of each word in lower case, itself among them."""
    scores: dict[str, float] = field(default_factory=dict)
    """Scores by word in lower case."""

    def learn(self, frames: Sequence[str], fitness: Sequence[float]) -> None:
        """Moves each word's score halfway to the mean fitness of the frames that contain it."""
        fitness_by_word: dict[str, list[float]] = {}
        for frame, value in zip(frames, fitness, strict=True):
            # The slot is no word of the prompt.
            words = _WORD.findall(frame.replace(BEHAVIOR_SLOT, " ").lower())
            # Once a frame, however often the frame repeats the word.
            for word in dict.fromkeys(words):
                fitness_by_word.setdefault(word, []).append(value)
        for word, values in fitness_by_word.items():
            # A new word starts with its mean, as there is no earlier score to keep half of.
            mean = fmean(values)
            self.scores[word] = (self.scores.get(word, mean) + mean) / 2

    def replace_words(self, frame: str, rate: float, rng: random.Random) -> str:
        """The frame with some words replaced by synonyms, which are sampled by their scores.

        Args:
            frame: The frame.
            rate: Probability that a word with synonyms is sampled again, up to `MAX_REPLACED_WORDS` a paragraph.
            rng: Random numbers.
        """
        sides: list[str] = []
        for side in frame.split(BEHAVIOR_SLOT):
            paragraphs = [self._replace_in_paragraph(text, rate, rng) for text in side.split("\n\n")]
            sides.append("\n\n".join(paragraphs))
        return BEHAVIOR_SLOT.join(sides)

    def _replace_in_paragraph(self, paragraph: str, rate: float, rng: random.Random) -> str:
        """The paragraph with words replaced."""
        chosen: list[re.Match[str]] = []
        for match in _WORD.finditer(paragraph):
            if match[0].lower() in self.synonyms and rng.random() < rate:
                chosen.append(match)
        chosen = rng.sample(chosen, min(MAX_REPLACED_WORDS, len(chosen)))
        # From the end, so that a replacement of another length does not move the words still to come.
        for match in sorted(chosen, key=lambda match: -match.start()):
            word = self._sample_word(self.synonyms[match[0].lower()], rng)
            if match[0][0].isupper():
                word = word.capitalize()
            paragraph = paragraph[: match.start()] + word + paragraph[match.end() :]
        return paragraph

    def _sample_word(self, words: Sequence[str], rng: random.Random) -> str:
        """One of the words, sampled by the softmax of their scores."""
        # Without this, a word that no prompt has had yet could never be tried.
        worst = min(self.scores.values(), default=0.0)
        scores = [self.scores.get(word, worst) for word in words]
        return rng.choices(words, softmax_weights(scores))[0]
