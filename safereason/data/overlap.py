"""Search for texts that are the same or nearly so: duplicates within a mix, and training rows that a test set contains.

There are three checks, the strongest first:

1. exact: equal but for case, white space, invisible characters and Unicode form (`sampling.fold`).
2. near: the Jaccard similarity of the two texts' sets of character 5-grams, |A ∩ B| / |A ∪ B|, reaches a threshold t.
   MinHash (`grams.py`) proposes candidates and the exact similarity decides, so there are no false matches. At most one
   pair in a thousand is missed at s = t, and far fewer above it.
3. words: both texts contain the same n words in a row.

Texts of one template can be proposed all to all of them; `clusters.py` compares those without looking at each pair.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safereason.data.example import Example
from safereason.recipe.schema import Hygiene

if TYPE_CHECKING:
    from safereason.data.text_index import Index, Match


@dataclass(frozen=True)
class Hit:
    """A row that a test set contains too."""

    row: str
    """Id of the row that was compared."""
    match: "Match"
    """The match; its key is the id of the test row."""
    test_set: str
    """Name of the test set."""


def compared_text(example: Example) -> str:
    """The text of an example that is compared: its prompt, then its response where there is one."""
    if example.response is None:
        return example.prompt
    return f"{example.prompt}\n{example.response}"


def build_indexes(sets: Mapping[str, Iterable[Example]], hygiene: Hygiene) -> "dict[str, Index]":
    """An index of each test set, by its name."""
    # A plan names the sets and compares nothing, so that it need not import NumPy.
    from safereason.data.text_index import Index

    indexes = {name: Index(hygiene.near_duplicate, hygiene.shared_words) for name in sets}
    for name, examples in sets.items():
        for example in examples:
            indexes[name].add(example.id, compared_text(example))
    return indexes


def compare_rows(rows: Iterable[Example], test_sets: "Mapping[str, Index]") -> Iterator[tuple[Example, list[Hit]]]:
    """Each row, one by one, with at most one hit in each test set."""
    for row in rows:
        hits = []
        for name, index in test_sets.items():
            match = index.find(compared_text(row))
            if match:
                hits.append(Hit(row.id, match, name))
        yield row, hits
