"""Sets of a text's character 5-grams, their MinHash signatures, and hashes of its runs of words.

A signature has b bands of r rows. Two texts of similarity s agree in at least one band with probability
1 - (1 - s^r)^b (Leskovec et al., Mining of Massive Datasets, §3.4). b is the smallest number that keeps this at or
above 0.999 at s = t for every threshold t. At t = 0.8 that is b = 14 and r = 4, which misses 6 in 10 000 at s = 0.8 and
3 in 10 million at s = 0.9.

The results depend on the text alone. A text is mostly needed several times in a row: by each index, and again when it
is added after it was not found. So the last ones are kept.
"""

import re
from functools import lru_cache
from math import ceil, log, log1p

import numpy as np
import numpy.typing as npt

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


def band_shape(threshold: float) -> tuple[int, int]:
    """Number of bands of a signature, and of rows in a band."""
    for rows in (4, 3, 2, 1):
        bands = 1
        if threshold < 1:
            # The smallest b for which (1 - t^r)^b, the chance that no band agrees, is at most MISSED.
            bands = ceil(log(MISSED) / log1p(-(threshold**rows)))
        if bands <= MOST_BANDS:
            break
    return bands, rows


@lru_cache(maxsize=1024)
def gram_hashes(folded: str) -> Hashes:
    """Sorted hashes of the different grams of a text, [grams]."""
    # UTF-32 has one number for each character. `surrogatepass` keeps texts that no UTF-8 file could hold.
    characters = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = np.sort(_window_hashes(characters, min(GRAM, len(characters))))
    is_first = np.concatenate(([True], hashes[1:] != hashes[:-1]))
    return hashes[is_first]


def jaccard(one: Hashes, other: Hashes) -> float:
    """Jaccard similarity |A ∩ B| / |A ∪ B| of two sets of grams."""
    # Two grams with the same 64-bit hash would count as one, which is too rare to matter.
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return float(shared / (len(one) + len(other) - shared))


@lru_cache(maxsize=1)
def band_keys(folded: str, bands: int, rows: int) -> Hashes:
    """A hash for each band of the MinHash signature, [bands]."""
    signature = minhash(gram_hashes(folded), bands * rows)
    # Each key starts from the band's number, so that equal values in different bands do not meet.
    keys: Hashes = np.arange(bands, dtype=np.uint64)
    for row in signature.reshape(bands, rows).astype(np.uint64).T:
        keys = (keys + row) * _FACTOR
    return keys


def minhash(grams: Hashes, permutations: int) -> npt.NDArray[np.uint32]:
    """The smallest value of a set of grams under each of several permutations of the 32-bit numbers, [permutations].

    It is that of datasketch's scheme `affine32`. The library itself imports SciPy's integration, which takes longer
    than comparing thousands of texts.
    """
    values = (grams >> np.uint64(32)).astype(np.uint32)
    # MurmurHash3's finalizer (Appleby 2011). The permutations below keep too much of the order of their input.
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        values ^= values >> np.uint32(shift)
        values *= np.uint32(factor)
    values ^= values >> np.uint32(16)
    factors, offsets = _permutations(permutations)
    permuted = values[:, None] * factors + offsets  # [grams, permutations], modulo 2^32
    smallest: npt.NDArray[np.uint32] = permuted.min(axis=0)
    return smallest


@lru_cache
def _permutations(count: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The factors a and the offsets b of the permutations h ↦ a·h + b modulo 2^32, two arrays of [count]."""
    random = np.random.RandomState(1)
    # An odd factor makes the map a permutation.
    factors = random.randint(0, 1 << 31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, random.randint(0, 1 << 32, count, dtype=np.uint32)


@lru_cache(maxsize=1)
def words_of(folded: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(folded)


@lru_cache(maxsize=1)
def run_hashes(folded: str, length: int) -> Hashes:
    """A hash of each run of `length` words in a text, in order, [words - length + 1]."""
    words = words_of(folded)
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
