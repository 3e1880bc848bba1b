"""What training must not have seen: the rows that a recipe tests on, and how training rows are compared with them."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from safereason.data import rsafe_mix, sources
from safereason.data.example import Example
from safereason.data.overlap import Index, compare, indexes
from safereason.data.screen import Refuse, not_in
from safereason.errors import InputError
from safereason.recipe.schema import GuardSet, Hygiene, Recipe

SHOWN = 20
"""Overlapping rows that a card lists."""


@dataclass(frozen=True)
class Unseen:
    """The test sets of a recipe, ready to be compared with."""

    hygiene: Hygiene
    sizes: dict[str, int]
    """Rows of each set that could be read."""
    against: dict[str, Index]
    """Those sets, indexed."""
    unread: dict[str, str]
    """Which sets could not be read, and why."""

    @property
    def notes(self) -> list[str]:
        """What a reader of the card should know."""
        return [f"not compared with the test set {name}: {why}" for name, why in self.unread.items()]

    @staticmethod
    def names(recipe: Recipe) -> list[str]:
        """What the recipe tests on, by name."""
        return list(dict.fromkeys(name for name, _ in _named(recipe)))

    @staticmethod
    def sources(recipe: Recipe) -> list[str]:
        """The sources of what the recipe tests on."""
        behaviors = [recipe.eval.behaviors, recipe.eval.benign] if recipe.eval else []
        sets = recipe.guard.eval.sets if recipe.guard and recipe.guard.eval else ()
        return [name for name in (*behaviors, *(chosen.source for chosen in sets)) if name]

    @classmethod
    def of(cls, recipe: Recipe) -> "Unseen":
        """Reads the test sets of a recipe.

        Raises:
            InputError: A name is no source.
        """
        sets: dict[str, list[Example]] = {}
        unread = {}
        for name, read in _named(recipe):
            try:
                sets.setdefault(name, []).extend(read())
            except InputError as error:
                unread[name] = str(error)
        sets = {name: rows for name, rows in sets.items() if name not in unread}
        hygiene = recipe.data.hygiene
        return cls(hygiene, {name: len(rows) for name, rows in sets.items()}, indexes(sets, hygiene), unread)

    def refuse(self) -> Refuse:
        """Refuses the rows that the recipe's hygiene has dropped."""
        return not_in(self.against) if self.hygiene.on_overlap == "drop" else lambda row: None

    def report(self, rows: Iterable[Example]) -> dict[str, Any]:
        """How many training rows each set holds too, as the card has it.

        Raises:
            InputError: There are some, and the recipe's hygiene refuses them.
        """
        counts = {name: Counter(exact=0, near=0, words=0) for name in self.against}
        hits: list[dict[str, Any]] = []
        for row, found in compare(rows, self.against):
            for hit in found:
                counts[hit.test_set][hit.match.how] += 1
                hits.append(
                    {
                        "row": row.id,
                        "set": hit.test_set,
                        "of": hit.match.key,
                        "how": hit.match.how,
                        "similarity": hit.match.similarity,
                        "shared": hit.match.shared,
                    }
                )
        many = len({hit["row"] for hit in hits})
        if hits and self.hygiene.on_overlap == "refuse":
            first = hits[0]
            raise InputError(
                f"data: {many} rows to train on are ones that the recipe tests on ({first['row']} is "
                f"{first['of']} of {first['set']}: {first['how']}); data.hygiene.on_overlap=drop leaves "
                "them out, =allow trains on them"
            )
        return {
            "checks": self.hygiene.model_dump(mode="json"),
            "rows": many,
            "sets": {name: {"rows": self.sizes[name], **count} for name, count in counts.items()}
            | {name: {"not compared": why} for name, why in self.unread.items()},
            "hits": hits[:SHOWN],
        }


Reader = Callable[[], Iterable[Example]]


def _named(recipe: Recipe) -> list[tuple[str, Reader]]:
    """The test sets of a recipe with what reads them."""
    names = (recipe.eval.behaviors, recipe.eval.benign) if recipe.eval else ()
    found: list[tuple[str, Reader]] = [(name, _reader(sources.get(name), "test")) for name in names if name]
    for chosen in recipe.guard.eval.sets if recipe.guard and recipe.guard.eval else ():
        read = _reader(sources.get(chosen.source), chosen.split)
        found.append((chosen.label, partial(_set_rows, chosen, recipe.seed, read)))
    return found


def _set_rows(chosen: GuardSet, seed: int, read: Reader) -> list[Example]:
    return rsafe_mix.set_rows(chosen, seed, read())


def _reader(source: sources.Source, split: sources.Split) -> Reader:
    return lambda: source.stream(split)
