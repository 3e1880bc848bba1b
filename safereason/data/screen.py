"""What a row has to pass before it is drawn: limits, test sets, and rows that say the same as one before it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from safereason.data.example import Example
from safereason.data.overlap import Index, Match, subject

Refuse = Callable[[Example], str | None]
"""Why a row is not fit to be trained on, or None."""


def fit(rows: Iterable[Example], refuse: Refuse, drops: Counter[str], what: str) -> Iterator[Example]:
    """The rows that are not refused, as they are asked for; the others are counted in `drops` by `what` and reason."""
    for row in rows:
        if (why := refuse(row)) is None:
            yield row
        else:
            drops[f"{what}: {why}"] += 1


def first_of(*refusals: Refuse) -> Refuse:
    """Refuses what any of them refuses, for the reason of the first that does."""

    def refuse(row: Example) -> str | None:
        return next((why for refusal in refusals if (why := refusal(row)) is not None), None)

    return refuse


def longer_than(characters: int) -> Refuse:
    """Refuses prompts of more than so many characters."""
    return lambda row: f"longer than {characters} characters" if len(row.prompt) > characters else None


class Unlike:
    """Refuses a row that says the same as one that passed before it; those that pass are remembered."""

    def __init__(self, near_duplicate: float | None) -> None:
        self._passed = Index(near_duplicate, None)

    def __call__(self, row: Example) -> str | None:
        """Why it is refused."""
        text = subject(row)
        match = self._passed.find(text)
        if match is not None:
            return same(match)
        self._passed.add(row.id, text)
        return None


def same(match: Match) -> str:
    """What a match within the training rows is called where it is counted."""
    return "a duplicate" if match.how == "exact" else "a near-duplicate"


def not_in(tests: Mapping[str, Index]) -> Refuse:
    """Refuses a row that a test set holds too."""

    def refuse(row: Example) -> str | None:
        text = subject(row)
        return next((f"in the test set {name}" for name, index in tests.items() if index.find(text)), None)

    return refuse
