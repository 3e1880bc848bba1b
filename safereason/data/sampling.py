"""Seeded orders of examples, and the text form that decides which prompts are the same.

An order follows from hashes, so it is the same on every machine, with every library version and for rows in any order.
"""

import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import nsmallest
from typing import TypeVar

from safereason.data.example import Example
from safereason.recipe.schema import RSafeMix, SourceShare, TarsMix

T = TypeVar("T")
KeyT = TypeVar("KeyT", bound=Hashable)
SourceReader = Callable[[str], Iterable[Example]]
"""Reads the training examples of a source by its name. It may be called several times for one source."""
SeededKey = tuple[bytes, bytes, str]
"""Sort key of an example: hash of its prompt, hash of its trace, and its id."""


@dataclass(frozen=True)
class Mixture:
    """The rows that a mix drew, in training order."""

    prompts: tuple[Example, ...]
    """Rows that RL draws rollouts for."""
    traces: tuple[Example, ...] = ()
    """Rows for SFT, with `reasoning` and `answer`."""
    validation: tuple[Example, ...] = ()
    """Rows that training is measured on and never sees."""
    drops: Mapping[str, int] = field(default_factory=dict)
    """Number of rows that were read and refused, by reason."""
    notes: tuple[str, ...] = ()
    """Remarks for the reader of the data card."""


_ZERO_WIDTH = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Characters without width: Unicode's Default_Ignorable_Code_Point and the controls that are not white space."""


def fold(text: str) -> str:
    """The form in which texts are compared: it is equal for texts that look the same to a reader.

    It ignores case, white space and characters without width. It also ignores how a character is encoded: composed or
    in parts, wide or narrow, as a ligature or in letters (Unicode's NFKC).
    """
    # Nearly all prompts are plain ASCII, for which normalisation changes nothing.
    if text.isascii() and text.isprintable():
        return order_key(text)
    visible = _ZERO_WIDTH.sub("", text)
    # Case folding can undo the normal form, and normalising can bring back characters without width. So both steps are
    # done twice, and folding a folded text changes nothing.
    casefolded = unicodedata.normalize("NFKC", visible).casefold()
    folded = order_key(_ZERO_WIDTH.sub("", unicodedata.normalize("NFKC", casefolded)))
    # A text of characters without width alone must not become equal to an empty one.
    return folded or order_key(text)


def order_key(prompt: str) -> str:
    """A prompt in lower case with single spaces, which seeded orders and published splits depend on.

    It must never change, or a seed would draw other rows. Whether two prompts are the same is decided by `fold`.
    """
    return " ".join(prompt.casefold().split())


def share_accepts(example: Example, share: SourceShare) -> bool:
    """Whether an example has the kind and one of the categories that a share takes."""
    if share.kind not in (None, example.kind):
        return False
    return not share.categories or not set(share.categories).isdisjoint(example.categories)


def used_shares(mix: TarsMix | RSafeMix, shares: Sequence[SourceShare]) -> list[SourceShare]:
    """The shares whose source the mix does not leave out."""
    return [share for share in shares if share.source not in mix.without_sources]


def seeded_key(example: Example, seed: int, purpose: str) -> SeededKey:
    """Sort key of an example in a seed's order; each purpose has an order of its own.

    The prompt comes first, so that the prompts of a source and its traces have the same order. Several traces of one
    prompt are ordered by their text.
    """
    trace_hash = b""
    if example.answer is not None:
        trace_hash = _digest_bytes(seed, purpose, example.reasoning, example.answer)
    # The id decides between rows with the same text.
    return _digest_bytes(seed, purpose, order_key(example.prompt)), trace_hash, example.id


def seeded_order(examples: Iterable[Example], seed: int, purpose: str) -> list[Example]:
    """The examples in a seed's order, whatever order they are given in."""
    return sorted(examples, key=lambda example: seeded_key(example, seed, purpose))


@dataclass(frozen=True)
class Selection:
    """Some of the examples of a source."""

    keep: Callable[[Example], bool]
    """Whether an example belongs to the selection."""
    expected: int
    """About how many of its examples will be taken; so many are kept in memory."""


def seeded_selections(
    read: Callable[[], Iterable[Example]], seed: int, purpose: str, selections: Mapping[KeyT, Selection]
) -> dict[KeyT, Iterator[Example]]:
    """Several selections of a source in the order of `seeded_order`, without holding the source in memory.

    The source is read once for all selections, and again for one of which more examples are taken than expected.

    Args:
        read: Gives the same examples each time.
        seed: Seed of the order.
        purpose: What the order is for.
        selections: The selections by key.

    Returns:
        All examples of each selection, by the same keys.
    """
    first_rows = {key: _FirstRows(selection.expected) for key, selection in selections.items()}
    for example in read():
        sort_key = None
        for key, selection in selections.items():
            if selection.keep(example):
                # The hash costs more than the check, and most examples of a large source are in no selection.
                sort_key = sort_key or seeded_key(example, seed, purpose)
                first_rows[key].offer(sort_key, example)
    streams = {}
    for key, selection in selections.items():
        streams[key] = _stream_selection(first_rows[key], selection, read, seed, purpose)
    return streams


def _stream_selection(
    rows: "_FirstRows", selection: Selection, read: Callable[[], Iterable[Example]], seed: int, purpose: str
) -> Iterator[Example]:
    """The rows in memory, then those after them, for which the source is read again."""
    yielded = 0
    while True:
        examples = rows.examples()
        yield from examples[yielded:]
        if len(examples) < rows.count:
            return
        yielded = len(examples)
        # Four times as many each time, so that a caller who takes everything causes few readings.
        rows = _FirstRows(4 * len(examples))
        for example in read():
            if selection.keep(example):
                rows.offer(seeded_key(example, seed, purpose), example)


class _FirstRows:
    """The `count` examples with the smallest sort keys among all that are offered."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._rows: list[tuple[SeededKey, Example]] = []
        self._largest_key: SeededKey | None = None

    def offer(self, key: SeededKey, example: Example) -> None:
        if self._largest_key is None or key < self._largest_key:
            self._rows.append((key, example))
            # Sorting twice the rows now and then is faster than keeping a heap: most offers are refused by one
            # comparison.
            if len(self._rows) >= 2 * self.count + 1000:
                self._sort_and_cut()

    def examples(self) -> list[Example]:
        self._sort_and_cut()
        return [example for _, example in self._rows]

    def _sort_and_cut(self) -> None:
        self._rows = sorted(self._rows, key=lambda row: row[0])[: self.count]
        if len(self._rows) == self.count:
            self._largest_key = self._rows[-1][0]


def digest(*parts: object) -> str:
    """SHA-256 of several values in hexadecimal."""
    return _digest_bytes(*parts).hex()


def _digest_bytes(*parts: object) -> bytes:
    # A unit separator keeps ("ab", "c") and ("a", "bc") apart.
    return sha256("\x1f".join(map(str, parts)).encode()).digest()


def limited(examples: Iterable[Example], limit: int | None, seed: int) -> list[Example]:
    """At most `limit` examples in their given order, chosen by the seed and their ids alone.

    Only `limit` examples are held in memory.
    """
    if limit is None:
        return list(examples)

    def hash_of_id(numbered: tuple[int, Example]) -> bytes:
        return sha256(f"{seed}:{numbered[1].id}".encode()).digest()

    chosen = nsmallest(limit, enumerate(examples), key=hash_of_id)
    # The number is unique, so two examples are never compared with each other.
    return [example for _, example in sorted(chosen, key=lambda numbered: numbered[0])]


def interleave(groups: Sequence[Sequence[T]]) -> list[T]:
    """All items, each group spread evenly over the whole in its own order.

    Every stretch of the result holds the groups in about their ratio.
    """
    slots = []
    for group_number, group in enumerate(groups):
        for position in range(len(group)):
            # Item i of n belongs in the middle of the i-th of n equal parts of the result.
            slots.append(((position + 0.5) / len(group), group_number, position))
    return [groups[group_number][position] for _, group_number, position in sorted(slots)]
