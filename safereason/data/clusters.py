"""Clusters of texts that are alike: one template with other words in its gaps, or one prompt in many versions.

The texts of a template can lie just under the threshold of similarity, each of them to all of the others. MinHash
proposes every pair of them then, and a comparison of the pairs takes time that grows with the square of their number.

A cluster keeps each text A as its difference D(A) = A △ C from a centre C, the grams that most of the first texts have.
Since A △ B = D(A) △ D(B), the similarity of two texts follows from the sizes of their differences and from the number
of grams that these share:

    |A △ B| = |D(A)| + |D(B)| - 2 |D(A) ∩ D(B)|
    |A ∩ B| / |A ∪ B| = (|A| + |B| - |A △ B|) / (|A| + |B| + |A △ B|)

Only texts that share a gram of the differences are counted. That are few: most grams are in the centre. Of the others
the smallest |D(B)| - (1 - t) / (1 + t) · |B| says whether any can reach the threshold t.
"""

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from safereason.data.grams import Hashes, jaccard
from safereason.data.postings import Positions, Postings

CROWD = 32
"""Texts that are compared one by one. Of more, a cluster is made."""
LIKE_CENTRE = 0.4
"""Jaccard similarity to the centre from which on a text belongs to a cluster. MinHash seldom proposes others."""
# The table of an index's own postings would be too large for hundreds of clusters.
_TABLE_BITS = 14
# Far more than floating point loses, and far less than one gram. What is decided by it is worked out exactly then.
_ROUNDING = 1e-6


def centre_of(sets: Sequence[Hashes]) -> Hashes:
    """Sorted hashes of the grams that more than half of the sets have."""
    grams, counts = np.unique(np.concatenate(sets), return_counts=True)
    centre: Hashes = grams[2 * counts > len(sets)]
    return centre


class Cluster:
    """Texts around a centre.

    Args:
        centre: Sorted hashes of the centre's grams.
        threshold: Jaccard similarity from which on texts are the same.
    """

    def __init__(self, centre: Hashes, threshold: float) -> None:
        self._centre = centre
        self._threshold = threshold
        self._slack = (1 - threshold) / (1 + threshold)
        # Its texts, in the order in which they were added: the number in the index, the grams, those of the difference.
        self._numbers: array[int] = array("q")
        self._sizes: array[int] = array("q")
        self._distances: array[int] = array("q")
        self._by_gram = Postings(_TABLE_BITS)
        self._least = np.inf

    def likeness(self, grams: Hashes) -> float:
        """Jaccard similarity of a text to the centre."""
        return jaccard(grams, self._centre)

    def add(self, grams: Hashes, number: int) -> None:
        """Adds a text by its sorted gram hashes; numbers grow."""
        difference = self._difference(grams)
        self._by_gram.add(difference, len(self._numbers))
        self._numbers.append(number)
        self._sizes.append(len(grams))
        self._distances.append(len(difference))
        self._least = min(self._least, self._excess(len(difference), len(grams)))

    def find(self, grams: Hashes) -> tuple[float, int] | None:
        """The greatest similarity to a text, and the number of the first text that has it; None below the threshold."""
        difference = self._difference(grams)
        positions, shared = self._candidates(difference, len(grams))
        if not len(positions):
            return None
        similarities = self._similarities(len(grams), len(difference), positions, shared)
        best = int(similarities.argmax())
        if similarities[best] < self._threshold:
            return None
        return float(similarities[best]), self._numbers[int(positions[best])]

    def _candidates(self, difference: Hashes, size: int) -> tuple[Positions, Positions]:
        """The positions of texts that may be near, and how many grams of the difference each shares, [texts]."""
        sharing = self._by_gram.find(difference)[1]
        # Two texts that share nothing beside the centre are near if both lie close to it.
        if self._excess(len(difference), size) + self._least <= _ROUNDING:
            return np.arange(len(self._numbers)), np.bincount(sharing, minlength=len(self._numbers))
        # A few are sorted faster than all are counted.
        if len(sharing) <= len(self._numbers):
            return np.unique(sharing.astype(np.int64), return_counts=True)
        shared = np.bincount(sharing)
        positions = shared.nonzero()[0]
        return positions, shared[positions]

    def _similarities(
        self, size: int, distance: int, positions: Positions, shared: Positions
    ) -> npt.NDArray[np.float64]:
        """Similarities of a text to those at these positions, whose differences share so many grams with its own."""
        sizes = size + np.frombuffer(self._sizes, np.int64)[positions]
        apart = distance + np.frombuffer(self._distances, np.int64)[positions] - 2 * shared
        similarities: npt.NDArray[np.float64] = (sizes - apart) / (sizes + apart)
        return similarities

    def _difference(self, grams: Hashes) -> Hashes:
        difference: Hashes = np.setxor1d(grams, self._centre, assume_unique=True)
        return difference

    def _excess(self, distance: int, size: int) -> float:
        """A text's part of |A △ B| - (1 - t) / (1 + t) · (|A| + |B|), which is above 0 for texts that are not near."""
        return distance - self._slack * size
