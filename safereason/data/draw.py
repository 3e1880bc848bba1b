"""Seeded orders that are the same on every machine and with every library version, whatever order the rows came in."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeVar

from safereason.data.example import Example

T = TypeVar("T")
Read = Callable[[str], Sequence[Example]]
"""Reads a source's training examples by the source's name."""


@dataclass(frozen=True)
class Mixture:
    """What a mix drew, in training order."""

    prompts: tuple[Example, ...]
    """Rows to train on by RL."""
    traces: tuple[Example, ...] = ()
    """Rows to train on by SFT, with `reasoning` and `answer`."""
    validation: tuple[Example, ...] = ()
    """Rows to watch the training by."""
    drops: Mapping[str, int] = field(default_factory=dict)
    """Rows that were read and are not fit to be used, by reason."""
    notes: tuple[str, ...] = ()
    """What a reader of the card should know."""


def fold(prompt: str) -> str:
    """A prompt without what makes no other prompt of it: case and white space."""
    return " ".join(prompt.casefold().split())


def is_of(example: Example, categories: Sequence[str]) -> bool:
    """Whether it is of one of the categories, or none is named."""
    return not categories or not set(categories).isdisjoint(example.categories)


def ordered(examples: Iterable[Example], seed: int, purpose: str) -> list[Example]:
    """The examples in the seed's order, another one for each purpose.

    The prompt decides the place, so that a source's prompts and its traces are in the same order; traces of one prompt
    are ordered by what they say.
    """

    def place(example: Example) -> tuple[str, str, str]:
        said = digest(seed, purpose, example.reasoning, example.answer)
        return digest(seed, purpose, fold(example.prompt)), said, example.id

    return sorted(examples, key=place)


def digest(*parts: object) -> str:
    """A hash of some values in a row."""
    return sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def interleave(groups: Sequence[Sequence[T]]) -> list[T]:
    """Spreads each group evenly over the whole, keeping its order: every stretch has them in about their ratio."""
    places = [((i + 0.5) / len(group), g, i) for g, group in enumerate(groups) for i in range(len(group))]
    return [groups[g][i] for _, g, i in sorted(places)]
