"""Index of texts, in which those that are the same as another text or nearly so are found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from safereason.data.clusters import CROWD, LIKE_CENTRE, Cluster, centre_of
from safereason.data.grams import Hashes, band_keys, band_shape, gram_hashes, jaccard, run_hashes, words_of
from safereason.data.postings import GramGroups, Numbers, Positions, Postings
from safereason.data.sampling import fold


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


class Proposals(NamedTuple):
    """The texts that share a band of their signatures with one text."""

    folded: str
    """The text."""
    keys: Hashes
    """Its band keys, [bands]."""
    positions: Positions
    """Positions in `keys`, [proposals]."""
    numbers: Numbers
    """Numbers of texts that have the key at the position, [proposals]."""


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
            self._bands, self._rows = band_shape(near_duplicate)
        self._run_length = shared_words
        # A text is known by its number, the order in which it was added: an index into these lists.
        self._keys: list[str] = []
        self._texts: list[str] = []
        self._gram_counts: list[int] = []
        self._number_by_text: dict[str, int] = {}
        self._groups = GramGroups()
        self._texts_by_band = Postings()
        self._last_proposals: Proposals | None = None
        # The clusters of texts that have one. Not all of a cluster's texts are here: see `_keys_to_add`.
        self._cluster_by_number: dict[int, Cluster] = {}
        self._first_text_by_words = Postings()

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
            grams = gram_hashes(folded)
            self._groups.add(grams, number)
            self._gram_counts.append(len(grams))
            proposals = self._proposals(folded)
            self._texts_by_band.add(self._keys_to_add(number, grams, proposals, self._threshold), number)
            self._last_proposals = None
        if self._run_length:
            # A run that an earlier text has is not added again: the first text answers for it, and common phrases take
            # no more memory.
            runs = run_hashes(folded, self._run_length)
            known, _ = self._first_text_by_words.find(runs)
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
        grams = gram_hashes(folded)
        # A similar text contains at least the threshold's share of these grams, and so does the group it is in. This
        # saves the signature of most texts.
        if self._groups.most_shared(grams) / len(grams) < threshold:
            return None
        singles, clusters = self._candidates(self._proposals(folded).numbers)
        bounds = []
        for number in singles:
            # The similarity of two sets is at most the ratio of their sizes.
            count = self._gram_counts[number]
            bounds.append((min(count, len(grams)) / max(count, len(grams)), number))
        # The number is negated, so that of equally similar texts the first added is the largest pair.
        best = (0.0, 0)
        for bound, number in sorted(bounds, reverse=True):
            if bound < max(threshold, best[0]):
                break
            best = max(best, (jaccard(grams, gram_hashes(self._texts[number])), -number))
        for cluster in clusters:
            nearest = cluster.find(grams)
            if nearest is not None:
                best = max(best, (nearest[0], -nearest[1]))
        similarity, negated = best
        if similarity < threshold:
            return None
        return Match(self._keys[-negated], "near", similarity, None)

    def _proposals(self, folded: str) -> Proposals:
        """The texts that MinHash proposes for this one; kept for `add`, which often follows `find`."""
        if self._last_proposals is None or self._last_proposals.folded != folded:
            keys = band_keys(folded, self._bands, self._rows)
            self._last_proposals = Proposals(folded, keys, *self._texts_by_band.find(keys))
        return self._last_proposals

    def _candidates(self, numbers: Numbers) -> tuple[list[int], list[Cluster]]:
        """The texts of these numbers that have no cluster, and the clusters of the others; each once."""
        singles: list[int] = []
        # A dictionary, which keeps their order.
        clusters: dict[Cluster, None] = {}
        for number in np.unique(numbers).tolist():
            cluster = self._cluster_by_number.get(number)
            if cluster is None:
                singles.append(number)
            else:
                clusters[cluster] = None
        return singles, list(clusters)

    def _keys_to_add(self, number: int, grams: Hashes, proposals: Proposals, threshold: float) -> Hashes:
        """The band keys of a new text that do not lead to its cluster yet; all of them if it belongs to none."""
        cluster = self._cluster_of(grams, proposals.numbers, threshold)
        if cluster is None:
            return proposals.keys
        cluster.add(grams, number)
        leads_to_it = [self._cluster_by_number.get(known) is cluster for known in proposals.numbers.tolist()]
        new_keys = np.delete(proposals.keys, proposals.positions[leads_to_it])
        if len(new_keys):
            self._cluster_by_number[number] = cluster
        return new_keys

    def _cluster_of(self, grams: Hashes, numbers: Numbers, threshold: float) -> Cluster | None:
        """The cluster that a new text belongs to, of those that its band keys lead to; None where there is none."""
        singles, clusters = self._candidates(numbers)
        # Of equally similar ones the first.
        likeness, place = max(((c.likeness(grams), -i) for i, c in enumerate(clusters)), default=(0.0, 0))
        if likeness >= LIKE_CENTRE:
            return clusters[-place]
        if len(singles) < CROWD:
            return None
        # Candidates may have little in common. Then the new text is unlike what most of them share.
        centre = centre_of([gram_hashes(self._texts[number]) for number in singles[:CROWD]])
        if jaccard(grams, centre) < LIKE_CENTRE:
            return None
        return self._gathered(singles, Cluster(centre, threshold))

    def _gathered(self, numbers: Sequence[int], cluster: Cluster) -> Cluster:
        """The cluster with those of these texts that are like its centre."""
        for number in numbers:
            grams = gram_hashes(self._texts[number])
            if cluster.likeness(grams) >= LIKE_CENTRE:
                cluster.add(grams, number)
                self._cluster_by_number[number] = cluster
        return cluster

    def _find_words(self, folded: str, length: int) -> Match | None:
        positions, numbers = self._first_text_by_words.find(run_hashes(folded, length))
        # The first run that was found before, in the first text that has it.
        for position, number in sorted(zip(positions.tolist(), numbers.tolist(), strict=True)):
            shared = " ".join(words_of(folded)[position : position + length])
            # Two runs may have the same hash, so the words themselves decide.
            if f" {shared} " in f" {' '.join(words_of(self._texts[number]))} ":
                return Match(self._keys[number], "words", None, shared)
        return None
