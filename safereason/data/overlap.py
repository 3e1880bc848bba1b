"""Texts that are the same, or nearly: duplicates within a mix, and training rows that a test set holds too.

Three checks, the strongest first:

1. exact: equal but for case, white space, invisible characters and Unicode form (`draw.fold`).
2. near: the Jaccard similarity of the two texts' sets of character 5-grams, |A ∩ B| / |A ∪ B|, reaches a threshold t.
   MinHash proposes, and the similarity itself decides, so that whatever is found is one. A signature of b bands of r
   rows proposes a text of similarity s with probability 1 - (1 - s^r)^b (Leskovec et al., Mining of Massive Datasets,
   §3.4). b is the least that keeps this at or above 0.999 at s = t, whatever t; at the default 0.8 that is b = 14 and
   r = 4, which misses 6 in 10 000 at s = 0.8 and 3 in 10 million at s = 0.9.
3. words: a run of n words that both texts have, whatever stands around it.

The signatures are datasketch's. Its index would hold a Python set a band and text, 4.8 KB a text; `_Postings` holds 12
bytes a band, so that a million short prompts fit into a gigabyte.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log, log1p
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

from safereason.data.draw import fold
from safereason.data.example import Example
from safereason.recipe.schema import Hygiene

Hashes = npt.NDArray[np.uint64]

GRAM = 5
"""Characters of a gram."""
MISSED = 0.001
"""The most that MinHash may miss of the pairs whose similarity is just the threshold."""
MOST_BANDS = 32
"""Bands that are worth their memory; a low threshold has shorter ones instead of more, and so more false candidates."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Match:
    """Why two texts are taken for the same."""

    key: str
    """Of the text in the index."""
    how: Literal["exact", "near", "words"]
    """Which check found it."""
    similarity: float | None
    """Jaccard similarity of the 5-grams; None where shared words found it."""
    shared: str | None
    """The words in a row that both have, where those found it."""


@dataclass(frozen=True)
class Hit:
    """A row that a test set holds too."""

    row: str
    """Id of the row that was looked at."""
    match: Match
    """What it is like; the key is the test row's id."""
    test_set: str
    """Name of the test set."""


class Index:
    """Texts to be found again.

    Args:
        near_duplicate: Jaccard similarity from which on texts are the same; None compares to the letter only.
        shared_words: Words in a row that make two texts the same; None does not look.
    """

    def __init__(self, near_duplicate: float | None, shared_words: int | None) -> None:
        self._threshold = near_duplicate
        self._bands, self._rows = _shape(near_duplicate) if near_duplicate else (0, 0)
        self._run = shared_words
        self._keys: list[str] = []
        self._texts: list[str] = []
        self._places: dict[str, int] = {}
        self._sizes: list[int] = []
        self._grams = _Groups()
        self._near_by_band = _Postings()
        self._first_by_words = _Postings()

    def __len__(self) -> int:
        """Texts in it, those apart that only repeat another to the letter."""
        return len(self._texts)

    def add(self, key: str, text: str) -> None:
        """Adds a text; one that is there to the letter stays under its first key."""
        folded, place = fold(text), len(self._texts)
        if self._places.setdefault(folded, place) != place:
            return
        self._keys.append(key)
        self._texts.append(folded)
        if self._threshold:
            grams = _gram_hashes(folded)
            self._grams.add(grams, place)
            self._sizes.append(len(grams))
            self._near_by_band.add(_band_keys(folded, self._bands, self._rows), place)
        if self._run:
            runs = _run_hashes(folded, self._run)
            known = [position for position, _ in self._first_by_words.find(runs)]
            self._first_by_words.add(np.unique(np.delete(runs, known)), place)

    def find(self, text: str) -> Match | None:
        """The text in the index that this one is most like, or None where it is like none.

        An exact match comes before a near one, the nearest before others and the first added before later ones; shared
        words come last.
        """
        folded = fold(text)
        if folded in self._places:
            return Match(self._keys[self._places[folded]], "exact", 1.0, None)
        near = self._find_near(folded, self._threshold) if self._threshold else None
        return near or (self._find_words(folded, self._run) if self._run else None)

    def _find_near(self, folded: str, threshold: float) -> Match | None:
        grams = _gram_hashes(folded)
        # A text like this one has the threshold's share of its grams at least, and its group has them too.
        if self._grams.most_shared(grams) / len(grams) < threshold:
            return None
        keys = _band_keys(folded, self._bands, self._rows)
        sizes = {place: self._sizes[place] for _, place in self._near_by_band.find(keys)}
        # No two sets are more alike than the smaller's share of the larger.
        bounds = [(min(size, len(grams)) / max(size, len(grams)), place) for place, size in sizes.items()]
        best = (0.0, 0)
        for bound, place in sorted(bounds, reverse=True):
            if bound < max(threshold, best[0]):
                break
            best = max(best, (_jaccard(grams, _gram_hashes(self._texts[place])), -place))
        similarity, place = best
        return Match(self._keys[-place], "near", similarity, None) if similarity >= threshold else None

    def _find_words(self, folded: str, run: int) -> Match | None:
        for position, place in self._first_by_words.find(_run_hashes(folded, run)):
            shared = " ".join(_words(folded)[position : position + run])
            if f" {shared} " in f" {' '.join(_words(self._texts[place]))} ":
                return Match(self._keys[place], "words", None, shared)
        return None


def subject(example: Example) -> str:
    """What of an example is compared: its prompt, and the response after it where there is one."""
    return example.prompt if example.response is None else f"{example.prompt}\n{example.response}"


def indexes(sets: Mapping[str, Iterable[Example]], hygiene: Hygiene) -> dict[str, Index]:
    """An index of each test set, by name."""
    made = {name: Index(hygiene.near_duplicate, hygiene.shared_words) for name in sets}
    for name, examples in sets.items():
        for example in examples:
            made[name].add(example.id, subject(example))
    return made


def compare(rows: Iterable[Example], against: Mapping[str, Index]) -> Iterator[tuple[Example, list[Hit]]]:
    """Each row, one by one, with the test sets that hold it too: at most one hit a set."""
    for row in rows:
        found = ((name, index.find(subject(row))) for name, index in against.items())
        yield row, [Hit(row.id, match, name) for name, match in found if match]


class _Groups:
    """Which of 64 groups of texts may hold a gram: never wrong where it says none."""

    BITS = 20

    def __init__(self) -> None:
        self._groups = np.zeros(1 << self.BITS, np.uint64)

    def add(self, grams: Hashes, place: int) -> None:
        self._groups[grams >> (64 - self.BITS)] |= np.uint64(1 << place % 64)

    def most_shared(self, grams: Hashes) -> int:
        """How many of these grams the group holds that holds the most of them."""
        groups = self._groups[grams >> (64 - self.BITS)]  # [grams]
        held = np.unpackbits(groups.view(np.uint8)).reshape(-1, 64)  # [grams, groups]
        return int(held.sum(axis=0, dtype=np.uint32).max())


class _Postings:
    """Places by hash, in sorted runs: 12 bytes an entry, each merged with its elders O(log n) times."""

    BITS = 21

    def __init__(self) -> None:
        self._runs: list[tuple[Hashes, npt.NDArray[np.uint32]]] = []
        self._seen = np.zeros(1 << self.BITS, np.bool_)

    def add(self, hashes: Hashes, place: int) -> None:
        if not len(hashes):
            return
        self._seen[hashes >> (64 - self.BITS)] = True
        run, places = np.sort(hashes), np.full(len(hashes), place, np.uint32)
        while self._runs and len(self._runs[-1][0]) <= len(run):
            earlier, their_places = self._runs.pop()
            run, places = np.concatenate((earlier, run)), np.concatenate((their_places, places))
            order = np.argsort(run, kind="stable")
            run, places = run[order], places[order]
        self._runs.append((run, places))

    def find(self, hashes: Hashes) -> list[tuple[int, int]]:
        """(Position among these hashes, place) of all that are here, in order."""
        (positions,) = self._seen[hashes >> (64 - self.BITS)].nonzero()
        wanted, found = hashes[positions], []
        for run, places in self._runs if len(wanted) else ():
            first, end = run.searchsorted(wanted), run.searchsorted(wanted, "right")
            for i in (first < end).nonzero()[0]:
                found += [(int(positions[i]), int(place)) for place in places[first[i] : end[i]]]
        return sorted(found)


def _shape(threshold: float) -> tuple[int, int]:
    """Bands of a signature and rows of a band."""
    for rows in (4, 3, 2, 1):
        bands = ceil(log(MISSED) / log1p(-(threshold**rows))) if threshold < 1 else 1
        if bands <= MOST_BANDS:
            break
    return bands, rows


# What follows depends on the text alone, and a text is mostly asked for several times in a row: by each index, and when
# it is added after it was not found.


@lru_cache(maxsize=1024)
def _gram_hashes(folded: str) -> Hashes:
    """A hash of each gram, ascending, each once."""
    characters = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = np.sort(_windows(characters, min(GRAM, len(characters))))
    return hashes[np.concatenate(([True], hashes[1:] != hashes[:-1]))]


def _jaccard(one: Hashes, other: Hashes) -> float:
    """Of two sets; two grams with one hash of 64 bits are taken for the same, which no text has to fear."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return float(shared / (len(one) + len(other) - shared))


@lru_cache(maxsize=1)
def _band_keys(folded: str, bands: int, rows: int) -> Hashes:
    """A hash of each band of the signature, and of which band it is."""
    signature = _blank(bands * rows).copy()
    signature.update_batch((_gram_hashes(folded) >> 32).tolist())
    keys: Hashes = np.arange(bands, dtype=np.uint64)
    for row in signature.hashvalues.reshape(bands, rows).astype(np.uint64).T:
        keys = (keys + row) * _FACTOR
    return keys


@lru_cache
def _blank(permutations: int) -> Any:
    """The signature of no gram, with its seeded permutations."""
    return MinHash(permutations, seed=1, hashfunc=int, scheme="affine32")


@lru_cache(maxsize=1)
def _words(folded: str) -> list[str]:
    return _WORD.findall(folded)


@lru_cache(maxsize=1)
def _run_hashes(folded: str, run: int) -> Hashes:
    """A hash of each run of so many words, in order; another one in each process, since no one keeps it."""
    words = _words(folded)
    return _windows(np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64), run)


def _windows(values: Hashes, width: int) -> Hashes:
    """A hash of each `width` values in a row, [values - width + 1]."""
    count = max(len(values) - width + 1, 0)
    hashes = np.zeros(count, np.uint64)
    for start in range(width if count else 0):
        hashes = (hashes + values[start : start + count]) * _FACTOR
    return hashes
