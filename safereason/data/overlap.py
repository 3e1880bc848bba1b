"""Search for texts that are the same or nearly so: duplicates within a mix, and training rows that a test set contains.

There are three checks, the strongest first:

1. exact: equal but for case, white space, invisible characters and Unicode form (`sampling.fold`).
2. near: the Jaccard similarity of the two texts' sets of character 5-grams, |A ∩ B| / |A ∪ B|, reaches a threshold t.
   MinHash proposes candidates and the exact similarity decides, so there are no false matches. A signature of b bands
   of r rows proposes a text of similarity s with probability 1 - (1 - s^r)^b (Leskovec et al., Mining of Massive
   Datasets, §3.4). b is the smallest number that keeps this at or above 0.999 at s = t for every t. At the default 0.8
   that is b = 14 and r = 4, which misses 6 in 10 000 at s = 0.8 and 3 in 10 million at s = 0.9.
3. words: both texts contain the same n words in a row.

The signatures are datasketch's. Its index would hold a Python set for each band and text, 4.8 KB a text. `_Postings`
holds 12 bytes a band, so that a million short prompts fit into a gigabyte.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log, log1p
from typing import Literal

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

from safereason.data.example import Example
from safereason.data.sampling import fold
from safereason.recipe.schema import Hygiene

Hashes = npt.NDArray[np.uint64]

GRAM = 5
"""Characters of a gram."""
MISSED = 0.001
"""Largest share of pairs at the threshold that MinHash may miss."""
# More bands cost memory for every text. A low threshold gets shorter bands instead, and so more false candidates.
MOST_BANDS = 32
"""Largest number of bands."""
# 2^64 divided by the golden ratio, which spreads consecutive values over the whole range (Knuth, TAOCP 3, §6.4).
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Match:
    """The reason why two texts count as the same."""

    key: str
    """Key of the text in the index."""
    how: Literal["exact", "near", "words"]
    """Check that matched: the same text, similar 5-grams, or shared words in a row."""
    similarity: float | None
    """Jaccard similarity of the 5-grams; None for a match by shared words."""
    shared: str | None
    """The shared words, for a match by them."""


@dataclass(frozen=True)
class Hit:
    """A row that a test set contains too."""

    row: str
    """Id of the row that was compared."""
    match: Match
    """The match; its key is the id of the test row."""
    test_set: str
    """Name of the test set."""


class Index:
    """A set of texts in which equal and similar ones are found.

    Args:
        near_duplicate: Jaccard similarity from which on texts are the same; None compares exactly.
        shared_words: Number of words in a row that make two texts the same; None skips this check.
    """

    def __init__(self, near_duplicate: float | None, shared_words: int | None) -> None:
        self._threshold = near_duplicate
        self._bands, self._rows = (0, 0)
        if near_duplicate:
            self._bands, self._rows = _band_shape(near_duplicate)
        self._run_length = shared_words
        # A text is known by its number, the order in which it was added: an index into these lists.
        self._keys: list[str] = []
        self._texts: list[str] = []
        self._gram_counts: list[int] = []
        self._number_by_text: dict[str, int] = {}
        self._groups = _GramGroups()
        self._texts_by_band = _Postings()
        self._first_text_by_words = _Postings()

    def __len__(self) -> int:
        """Number of different texts."""
        return len(self._texts)

    def add(self, key: str, text: str) -> None:
        """Adds a text; a repeated text keeps its first key."""
        folded = fold(text)
        number = len(self._texts)
        if self._number_by_text.setdefault(folded, number) != number:
            return
        self._keys.append(key)
        self._texts.append(folded)
        if self._threshold:
            grams = _gram_hashes(folded)
            self._groups.add(grams, number)
            self._gram_counts.append(len(grams))
            self._texts_by_band.add(_band_keys(folded, self._bands, self._rows), number)
        if self._run_length:
            # A run that an earlier text has is not added again: the first text answers for it, and common phrases take
            # no more memory.
            runs = _run_hashes(folded, self._run_length)
            known = [position for position, _ in self._first_text_by_words.find(runs)]
            self._first_text_by_words.add(np.unique(np.delete(runs, known)), number)

    def find(self, text: str) -> Match | None:
        """The text of the index that is most similar, or None if no check matches.

        An exact match comes before a near one, then the most similar, then the first added. Shared words come last.
        """
        folded = fold(text)
        if folded in self._number_by_text:
            return Match(self._keys[self._number_by_text[folded]], "exact", 1.0, None)
        match = None
        if self._threshold:
            match = self._find_near(folded, self._threshold)
        if match is None and self._run_length:
            match = self._find_words(folded, self._run_length)
        return match

    def _find_near(self, folded: str, threshold: float) -> Match | None:
        grams = _gram_hashes(folded)
        # A similar text contains at least the threshold's share of these grams, and so does the group it is in. This
        # saves the signature of most texts.
        if self._groups.most_shared(grams) / len(grams) < threshold:
            return None
        keys = _band_keys(folded, self._bands, self._rows)
        candidates = {number for _, number in self._texts_by_band.find(keys)}
        bounds = []
        for number in candidates:
            # The similarity of two sets is at most the ratio of their sizes.
            count = self._gram_counts[number]
            bounds.append((min(count, len(grams)) / max(count, len(grams)), number))
        # The number is negated, so that of equally similar texts the first added is the largest pair.
        best = (0.0, 0)
        for bound, number in sorted(bounds, reverse=True):
            if bound < max(threshold, best[0]):
                break
            best = max(best, (_jaccard(grams, _gram_hashes(self._texts[number])), -number))
        similarity, negated = best
        if similarity < threshold:
            return None
        return Match(self._keys[-negated], "near", similarity, None)

    def _find_words(self, folded: str, length: int) -> Match | None:
        for position, number in self._first_text_by_words.find(_run_hashes(folded, length)):
            shared = " ".join(_words(folded)[position : position + length])
            # Two runs may have the same hash, so the words themselves decide.
            if f" {shared} " in f" {' '.join(_words(self._texts[number]))} ":
                return Match(self._keys[number], "words", None, shared)
        return None


def compared_text(example: Example) -> str:
    """The text of an example that is compared: its prompt, then its response where there is one."""
    if example.response is None:
        return example.prompt
    return f"{example.prompt}\n{example.response}"


def build_indexes(sets: Mapping[str, Iterable[Example]], hygiene: Hygiene) -> dict[str, Index]:
    """An index of each test set, by its name."""
    indexes = {name: Index(hygiene.near_duplicate, hygiene.shared_words) for name in sets}
    for name, examples in sets.items():
        for example in examples:
            indexes[name].add(example.id, compared_text(example))
    return indexes


def compare_rows(rows: Iterable[Example], test_sets: Mapping[str, Index]) -> Iterator[tuple[Example, list[Hit]]]:
    """Each row, one by one, with at most one hit in each test set."""
    for row in rows:
        hits = []
        for name, index in test_sets.items():
            match = index.find(compared_text(row))
            if match:
                hits.append(Hit(row.id, match, name))
        yield row, hits


class _GramGroups:
    """A filter over 64 groups of texts: it may claim a gram that a group does not have, and never misses one."""

    BITS = 20

    def __init__(self) -> None:
        # One bit for each of the 64 groups, at the slot that the first bits of a gram's hash name.
        self._groups = np.zeros(1 << self.BITS, np.uint64)

    def add(self, grams: Hashes, number: int) -> None:
        self._groups[grams >> (64 - self.BITS)] |= np.uint64(1 << number % 64)

    def most_shared(self, grams: Hashes) -> int:
        """Largest number of these grams that one group contains."""
        groups = self._groups[grams >> (64 - self.BITS)]  # [grams]
        is_in_group = np.unpackbits(groups.view(np.uint8)).reshape(-1, 64)  # [grams, groups]
        return int(is_in_group.sum(axis=0, dtype=np.uint32).max())


class _Postings:
    """Numbers of texts by hash, in sorted arrays: 12 bytes an entry.

    A new array is merged with earlier ones that are not longer, so each entry is merged O(log n) times.
    """

    BITS = 21

    def __init__(self) -> None:
        self._arrays: list[tuple[Hashes, npt.NDArray[np.uint32]]] = []
        # Most hashes that are searched for are in no text. This table answers for them with one look.
        self._seen = np.zeros(1 << self.BITS, np.bool_)

    def add(self, hashes: Hashes, number: int) -> None:
        if not len(hashes):
            return
        self._seen[hashes >> (64 - self.BITS)] = True
        merged = np.sort(hashes)
        numbers = np.full(len(hashes), number, np.uint32)
        while self._arrays and len(self._arrays[-1][0]) <= len(merged):
            earlier, earlier_numbers = self._arrays.pop()
            merged = np.concatenate((earlier, merged))
            numbers = np.concatenate((earlier_numbers, numbers))
            # A stable sort keeps the first added text in front.
            order = np.argsort(merged, kind="stable")
            merged = merged[order]
            numbers = numbers[order]
        self._arrays.append((merged, numbers))

    def find(self, hashes: Hashes) -> list[tuple[int, int]]:
        """Pairs of a position in `hashes` and the number of a text that has this hash, sorted."""
        (positions,) = self._seen[hashes >> (64 - self.BITS)].nonzero()
        if not len(positions):
            return []
        candidates = hashes[positions]
        pairs = []
        for known, numbers in self._arrays:
            starts = known.searchsorted(candidates)
            ends = known.searchsorted(candidates, "right")
            for i in (starts < ends).nonzero()[0]:
                pairs += [(int(positions[i]), int(number)) for number in numbers[starts[i] : ends[i]]]
        return sorted(pairs)


def _band_shape(threshold: float) -> tuple[int, int]:
    """Number of bands of a signature, and of rows in a band."""
    for rows in (4, 3, 2, 1):
        bands = 1
        if threshold < 1:
            # The smallest b for which (1 - t^r)^b, the chance that no band agrees, is at most MISSED.
            bands = ceil(log(MISSED) / log1p(-(threshold**rows)))
        if bands <= MOST_BANDS:
            break
    return bands, rows


# The results below depend on the text alone. A text is mostly needed several times in a row: by each index, and again
# when it is added after it was not found. So the last ones are kept.


@lru_cache(maxsize=1024)
def _gram_hashes(folded: str) -> Hashes:
    """Sorted hashes of the different grams of a text, [grams]."""
    # UTF-32 has one number for each character. `surrogatepass` keeps texts that no UTF-8 file could hold.
    characters = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = np.sort(_window_hashes(characters, min(GRAM, len(characters))))
    is_first = np.concatenate(([True], hashes[1:] != hashes[:-1]))
    return hashes[is_first]


def _jaccard(one: Hashes, other: Hashes) -> float:
    """Jaccard similarity of two sets of grams."""
    # Two grams with the same 64-bit hash would count as one, which is too rare to matter.
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return float(shared / (len(one) + len(other) - shared))


@lru_cache(maxsize=1)
def _band_keys(folded: str, bands: int, rows: int) -> Hashes:
    """A hash for each band of the MinHash signature, [bands]."""
    signature = _empty_signature(bands * rows).copy()
    # The permutations are of 32-bit numbers.
    signature.update_batch((_gram_hashes(folded) >> 32).tolist())
    # Each key starts from the band's number, so that equal values in different bands do not meet.
    keys: Hashes = np.arange(bands, dtype=np.uint64)
    for row in signature.hashvalues.reshape(bands, rows).astype(np.uint64).T:
        keys = (keys + row) * _FACTOR
    return keys


@lru_cache
def _empty_signature(permutations: int) -> MinHash:
    """The signature of no gram; drawing its seeded permutations takes longer than copying them."""
    return MinHash(permutations, seed=1, hashfunc=int, scheme="affine32")


@lru_cache(maxsize=1)
def _words(folded: str) -> list[str]:
    return _WORD.findall(folded)


@lru_cache(maxsize=1)
def _run_hashes(folded: str, length: int) -> Hashes:
    """A hash of each run of `length` words in a text, in order, [words - length + 1]."""
    words = _words(folded)
    # Python's own hash of a text differs between processes. That is fine here, since no index is saved.
    word_hashes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    return _window_hashes(word_hashes, length)


def _window_hashes(values: Hashes, width: int) -> Hashes:
    """A hash of each `width` consecutive values, [values - width + 1]."""
    count = max(len(values) - width + 1, 0)
    hashes = np.zeros(count, np.uint64)
    if not count:
        return hashes
    for start in range(width):
        hashes = (hashes + values[start : start + count]) * _FACTOR
    return hashes
