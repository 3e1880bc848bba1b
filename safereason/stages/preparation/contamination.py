"""Contamination of training data: the rows that a recipe tests on, and their comparison with training rows."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safereason.data import rsafe_mix, sources
from safereason.data.example import Example
from safereason.data.filters import Refuse, refuse_test_rows
from safereason.data.overlap import build_indexes, compare_rows
from safereason.errors import InputError
from safereason.recipe.schema import GuardSet, Hygiene, Recipe
from safereason.runs.records import Record

if TYPE_CHECKING:
    from safereason.data.text_index import Index

LISTED_ROWS = 20
"""Most overlapping rows that a card lists."""


@dataclass(frozen=True)
class ContaminationCheck:
    """The test sets of a recipe, indexed for comparison with training rows."""

    hygiene: Hygiene
    sizes: dict[str, int]
    """Rows of each set that could be read."""
    against: "dict[str, Index]"
    """Index of each of those sets."""
    unread: dict[str, str]
    """Sets that could not be read, with the reason."""

    @property
    def notes(self) -> list[str]:
        """Notes for the data card: the sets that were not compared."""
        notes = []
        for name, why in self.unread.items():
            notes.append(f"not compared with the test set {name}: {why}")
        return notes

    @staticmethod
    def names(recipe: Recipe) -> list[str]:
        """Names of the recipe's test sets, each once."""
        return list(dict.fromkeys(name for name, _ in _test_sets(recipe)))

    @staticmethod
    def sources(recipe: Recipe) -> list[str]:
        """Sources of the recipe's test sets."""
        names = _eval_sources(recipe)
        for chosen in _guard_sets(recipe):
            names.append(chosen.source)
        return names

    @classmethod
    def of(cls, recipe: Recipe) -> "ContaminationCheck":
        """Reads the test sets of a recipe.

        Raises:
            InputError: A name is no source.
        """
        sets: dict[str, list[Example]] = {}
        unread: dict[str, str] = {}
        for name, read in _test_sets(recipe):
            try:
                sets.setdefault(name, []).extend(read())
            except InputError as error:
                unread[name] = str(error)
        # Several parts can share a name. If one of them is missing, a comparison with the others would look complete.
        for name in unread:
            sets.pop(name, None)
        # The indexes hold shingles of all test rows, so they are built once and serve all training rows.
        hygiene = recipe.data.hygiene
        sizes = {name: len(rows) for name, rows in sets.items()}
        return cls(hygiene, sizes, build_indexes(sets, hygiene), unread)

    def refuse(self) -> Refuse:
        """The filter of training rows: test rows go if the recipe's hygiene drops them."""
        if self.hygiene.on_overlap == "drop":
            return refuse_test_rows(self.against)
        return lambda row: None

    def report(self, rows: Iterable[Example]) -> Record:
        """The number of training rows that are in each test set, for the data card.

        Raises:
            InputError: There are some, and the recipe's hygiene refuses them.
        """
        counts = {name: Counter(exact=0, near=0, words=0) for name in self.against}
        hits: list[Record] = []
        for row, matches in compare_rows(rows, self.against):
            for hit in matches:
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
        # A row may be in several sets, and counts once.
        overlapping_rows = len({hit["row"] for hit in hits})
        if hits and self.hygiene.on_overlap == "refuse":
            first = hits[0]
            raise InputError(
                f"data: {overlapping_rows} rows to train on are ones that the recipe tests on ({first['row']} is "
                f"{first['of']} of {first['set']}: {first['how']}); data.hygiene.on_overlap=drop leaves "
                "them out, =allow trains on them"
            )
        sets: dict[str, Record] = {}
        for name, count in counts.items():
            sets[name] = {"rows": self.sizes[name], **count}
        for name, why in self.unread.items():
            sets[name] = {"not compared": why}
        return {
            "checks": self.hygiene.model_dump(mode="json"),
            "rows": overlapping_rows,
            "sets": sets,
            "hits": hits[:LISTED_ROWS],
        }


RowReader = Callable[[], Iterable[Example]]
"""A function that reads the rows of a test set when it is called."""


def _test_sets(recipe: Recipe) -> list[tuple[str, RowReader]]:
    """The test sets of a recipe by name, each with its reader."""
    test_sets: list[tuple[str, RowReader]] = []
    for name in _eval_sources(recipe):
        test_sets.append((name, _split_reader(name, "test")))
    for chosen in _guard_sets(recipe):
        test_sets.append((chosen.label, _guard_set_reader(chosen, recipe.seed)))
    return test_sets


def _eval_sources(recipe: Recipe) -> list[str]:
    """Sources of the prompts that the recipe evaluates a reasoning model on."""
    if recipe.eval is None:
        return []
    # Both may be null in a recipe that leaves an evaluation out.
    return [name for name in (recipe.eval.behaviors, recipe.eval.benign) if name]


def _guard_sets(recipe: Recipe) -> tuple[GuardSet, ...]:
    """Labelled sets that the recipe evaluates a guard on."""
    if recipe.guard is None or recipe.guard.eval is None:
        return ()
    return recipe.guard.eval.sets


def _split_reader(name: str, split: sources.Split) -> RowReader:
    # The source is looked up at once, so that an unknown name is an error here and not an unread set.
    source = sources.get(name)
    return lambda: source.stream(split)


def _guard_set_reader(chosen: GuardSet, seed: int) -> RowReader:
    read = _split_reader(chosen.source, chosen.split)
    return lambda: rsafe_mix.set_rows(chosen, seed, read())
