"""Checks that a row must pass before it is drawn: length, test sets, and rows that repeat an earlier one."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from safereason.data.example import Example
from safereason.data.overlap import compared_text
from safereason.recipe.schema import Hygiene

if TYPE_CHECKING:
    from safereason.data.text_index import Index, Match

Refuse = Callable[[Example], str | None]
"""A check of a row: the reason why it must not be trained on, or None where it passes."""


def drop_refused(rows: Iterable[Example], refuse: Refuse, drops: Counter[str], label: str) -> Iterator[Example]:
    """Rows that pass a check, one by one; the others are counted in `drops` under `label: reason`."""
    # Rows that nobody takes are not read, and so not counted.
    for row in rows:
        reason = refuse(row)
        if reason is None:
            yield row
        else:
            drops[f"{label}: {reason}"] += 1


def refuse_any(*checks: Refuse) -> Refuse:
    """A check that refuses what any of the checks refuses, with the first one's reason."""

    def refuse(row: Example) -> str | None:
        for check in checks:
            reason = check(row)
            if reason is not None:
                return reason
        return None

    return refuse


def reason_for_length(characters: int) -> str:
    """The reason of rows with prompts of more than so many characters."""
    return f"longer than {characters} characters"


def refuse_longer_than(characters: int) -> Refuse:
    """A check that refuses prompts of more than so many characters."""

    def refuse(row: Example) -> str | None:
        # Characters and not tokens, so that a mix is the same for every model.
        if len(row.prompt) > characters:
            return reason_for_length(characters)
        return None

    return refuse


class RefuseDuplicates:
    """A check that refuses a row with the text of an earlier row that passed.

    Args:
        near_duplicate: Jaccard similarity from which on texts count as the same; None compares exactly.
    """

    def __init__(self, near_duplicate: float | None) -> None:
        # A plan makes no such check, so that it need not import NumPy.
        from safereason.data.text_index import Index

        self._passed = Index(near_duplicate, None)

    def __call__(self, row: Example) -> str | None:
        """The reason for refusing a row; a row that passes is remembered."""
        text = compared_text(row)
        match = self._passed.find(text)
        if match is not None:
            return duplicate_reason(match)
        # Only rows that pass are remembered. Otherwise a chain of similar rows would refuse more and more of them.
        self._passed.add(row.id, text)
        return None


def refuse_repeats(hygiene: Hygiene) -> Refuse:
    """A check that refuses what repeats an earlier row that passed, by the rules of a recipe."""
    match hygiene.deduplicate:
        case "none":
            return lambda row: None
        case "exact":
            return RefuseDuplicates(None)
    return RefuseDuplicates(hygiene.near_duplicate)


def duplicate_reason(match: "Match") -> str:
    """The reason under which a repeated training row is counted."""
    if match.how == "exact":
        return "a duplicate"
    return "a near-duplicate"


def refuse_test_rows(tests: "Mapping[str, Index]") -> Refuse:
    """A check that refuses rows that a test set contains too."""

    def refuse(row: Example) -> str | None:
        text = compared_text(row)
        for name, index in tests.items():
            if index.find(text):
                return f"in the test set {name}"
        return None

    return refuse
