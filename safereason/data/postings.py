"""The memory of an index: which texts hold a hash, 12 bytes an entry, and a filter over groups of texts.

An index of Python sets, as datasketch has it, takes 4.8 KB a text. With this one a million short prompts fit into a
gigabyte.
"""

import numpy as np
import numpy.typing as npt

from safereason.data.grams import Hashes

Positions = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint32]
"""Numbers of texts."""


class Postings:
    """Numbers of texts by hash, in sorted arrays.

    A new array is merged with earlier ones that are not longer, so each entry is merged O(log n) times.

    Args:
        bits: Size of a table of 2^bits bytes that answers for most hashes that are in no text.
    """

    def __init__(self, bits: int = 21) -> None:
        self._arrays: list[tuple[Hashes, Numbers]] = []
        self._shift = np.uint64(64 - bits)
        self._seen = np.zeros(1 << bits, np.bool_)

    def add(self, hashes: Hashes, number: int) -> None:
        """Adds the hashes of a text, in any order."""
        if not len(hashes):
            return
        self._seen[hashes >> self._shift] = True
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

    def find(self, hashes: Hashes) -> tuple[Positions, Numbers]:
        """All pairs of a position in `hashes` and the number of a text that has this hash, two arrays of [pairs]."""
        (candidates,) = self._seen[hashes >> self._shift].nonzero()
        positions = [np.zeros(0, np.int64)]
        numbers = [np.zeros(0, np.uint32)]
        if len(candidates):
            candidate_hashes = hashes[candidates]
            for known, known_numbers in self._arrays:
                starts = known.searchsorted(candidate_hashes)
                counts = known.searchsorted(candidate_hashes, "right") - starts
                if not counts.any():
                    continue
                positions.append(np.repeat(candidates, counts))
                numbers.append(known_numbers[_ranges(starts, counts)])
        return np.concatenate(positions), np.concatenate(numbers)


def _ranges(starts: Positions, counts: Positions) -> Positions:
    """The numbers from each start on, as many as its count says, in one array of [sum of counts]."""
    # A plain range, moved at the beginning of each part to that part's start.
    ends = np.cumsum(counts)
    return np.repeat(starts - ends + counts, counts) + np.arange(counts.sum())


class GramGroups:
    """A filter over 64 groups of texts: it may claim a gram that a group does not have, and never misses one."""

    BITS = 20

    def __init__(self) -> None:
        # One bit for each of the 64 groups, at the slot that the first bits of a gram's hash name.
        self._groups = np.zeros(1 << self.BITS, np.uint64)

    def add(self, grams: Hashes, number: int) -> None:
        """Adds the grams of a text to its group."""
        self._groups[grams >> np.uint64(64 - self.BITS)] |= np.uint64(1 << number % 64)

    def most_shared(self, grams: Hashes) -> int:
        """Largest number of these grams that one group contains."""
        groups = self._groups[grams >> np.uint64(64 - self.BITS)]  # [grams]
        is_in_group = np.unpackbits(groups.view(np.uint8)).reshape(-1, 64)  # [grams, groups]
        return int(is_in_group.sum(axis=0, dtype=np.uint32).max())
