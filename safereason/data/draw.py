"""Seeded orders that are the same on every machine and with every library version, whatever order the rows came in."""

import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from heapq import nsmallest
from typing import TypeVar

from safereason.data.example import Example
from safereason.recipe.schema import RSafeMix, SourceShare, TarsMix

T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)
Read = Callable[[str], Iterable[Example]]
"""Reads a source's training examples by the source's name, as often as it is asked."""
Place = tuple[bytes, bytes, str]


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
    """Rows that were looked at and are not fit to be used, by reason."""
    notes: tuple[str, ...] = ()
    """What a reader of the card should know."""


_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Characters without width: Unicode's Default_Ignorable_Code_Point, and controls that are no white space."""


def fold(text: str) -> str:
    """The form in which texts are compared: equal for texts that a reader cannot tell apart.

    Case, white space and characters without width do not count, nor does the way a character is written: composed or in
    parts, wide or narrow, as a ligature or in letters (Unicode's NFKC).
    """
    if text.isascii() and text.isprintable():
        return order_key(text)
    seen = unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).casefold()
    folded = order_key(_UNSEEN.sub("", unicodedata.normalize("NFKC", seen)))
    return folded or order_key(text)  # one of such characters alone is like none that is empty


def order_key(prompt: str) -> str:
    """A prompt without case and white space: what orders are drawn by, and published sets are divided by.

    It stays as it is, so that a seed draws the same rows as ever; `fold` says which of them are the same.
    """
    return " ".join(prompt.casefold().split())


def is_of(example: Example, share: SourceShare) -> bool:
    """Whether a share may take it, by its kind and by its categories."""
    wanted = set(share.categories)
    return share.kind in (None, example.kind) and (not wanted or not wanted.isdisjoint(example.categories))


def shares(mix: TarsMix | RSafeMix, named: Sequence[SourceShare]) -> list[SourceShare]:
    """The shares of sources that the mix does not leave out."""
    return [share for share in named if share.source not in mix.without_sources]


def place(example: Example, seed: int, purpose: str) -> Place:
    """Where an example stands in the seed's order, another one for each purpose.

    The prompt decides the place, so that a source's prompts and its traces are in the same order; traces of one prompt
    are ordered by what they say.
    """
    said = b"" if example.answer is None else _hash(seed, purpose, example.reasoning, example.answer)
    return _hash(seed, purpose, order_key(example.prompt)), said, example.id


def ordered(examples: Iterable[Example], seed: int, purpose: str) -> list[Example]:
    """The examples in the seed's order."""
    return sorted(examples, key=lambda example: place(example, seed, purpose))


def in_order(
    read: Callable[[], Iterable[Example]], seed: int, purpose: str, wants: Mapping[Key, "Want"]
) -> dict[Key, Iterator[Example]]:
    """The same order, for several selections of examples that may be more than memory holds.

    The examples are read once, and again for a selection of which more are taken than were expected.

    Args:
        read: Gives the same examples each time.
        seed: Seed of the order.
        purpose: What the order is for.
        wants: The selections.

    Returns:
        All of each selection, by the same keys.
    """
    first = {key: _First(want.expected) for key, want in wants.items()}
    for example in read():
        at = None
        for key, want in wants.items():
            if want.keep(example):
                at = at or place(example, seed, purpose)
                first[key].offer(at, example)
    return {key: _and_so_on(first[key], partial(_kept, want, read), seed, purpose) for key, want in wants.items()}


def _kept(want: "Want", read: Callable[[], Iterable[Example]]) -> Iterator[Example]:
    return filter(want.keep, read())


def _and_so_on(first: "_First", read: Callable[[], Iterable[Example]], seed: int, purpose: str) -> Iterator[Example]:
    """What is held, and then, read again, what comes after it."""
    passed = 0
    while True:
        held = first.examples()
        yield from held[passed:]
        if len(held) < first.count:
            return
        passed, first = len(held), _First(4 * len(held))
        for example in read():
            first.offer(place(example, seed, purpose), example)


@dataclass(frozen=True)
class Want:
    """Some of the examples of a source."""

    keep: Callable[[Example], bool]
    """Whether an example is one of them."""
    expected: int
    """How many of them will be taken, about; so many are held."""


class _First:
    """The first `count` of the examples that it is offered."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._held: list[tuple[Place, Example]] = []
        self._last: Place | None = None

    def offer(self, at: Place, example: Example) -> None:
        if self._last is None or at < self._last:
            self._held.append((at, example))
            if len(self._held) >= 2 * self.count + 1000:
                self._cut()

    def examples(self) -> list[Example]:
        self._cut()
        return [example for _, example in self._held]

    def _cut(self) -> None:
        self._held = sorted(self._held, key=lambda held: held[0])[: self.count]
        if len(self._held) == self.count:
            self._last = self._held[-1][0]


def digest(*parts: object) -> str:
    """A hash of some values in a row, in hexadecimal."""
    return _hash(*parts).hex()


def _hash(*parts: object) -> bytes:
    return sha256("\x1f".join(map(str, parts)).encode()).digest()


def limited(examples: Iterable[Example], limit: int | None, seed: int) -> list[Example]:
    """At most `limit` examples, in the order given: which ones depends on the seed and their ids alone.

    No more than these are held: the examples may be more than memory holds.
    """
    if limit is None:
        return list(examples)
    drawn = nsmallest(limit, enumerate(examples), key=lambda e: sha256(f"{seed}:{e[1].id}".encode()).digest())
    return [example for _, example in sorted(drawn, key=lambda e: e[0])]


def interleave(groups: Sequence[Sequence[T]]) -> list[T]:
    """Spreads each group evenly over the whole, keeping its order: every stretch has them in about their ratio."""
    places = [((i + 0.5) / len(group), g, i) for g, group in enumerate(groups) for i in range(len(group))]
    return [groups[g][i] for _, g, i in sorted(places)]
