"""What a data source is."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safereason.data.example import Example
from safereason.errors import InputError

Split = Literal["train", "test"]
Reader = Callable[[Split], list[Example]]


@dataclass(frozen=True)
class Source:
    """A dataset that examples are read from. It serves only the splits it declares, so that nobody trains on a test."""

    name: str
    """What a recipe calls it."""
    title: str
    """What it holds, in a few words."""
    page: str
    """Where its publisher describes it."""
    licence: str
    """SPDX identifier of its licence."""
    serves: tuple[Split, ...]
    """Splits it may be used as."""
    prompts: Reader
    """Reads one example a prompt."""
    reasoned: Reader | None = None
    """Reads one example a reasoning trace, where it has some."""

    def load(self, split: Split) -> list[Example]:
        """One example a prompt of this split.

        Raises:
            InputError: The source does not serve this split, or its file cannot be had.
        """
        self._check(split)
        return self.prompts(split)

    def traces(self, split: Split) -> list[Example]:
        """One example a reasoning trace of this split, with `reasoning` and `answer`.

        Raises:
            InputError: The source has no traces, does not serve this split, or its file cannot be had.
        """
        self._check(split)
        if self.reasoned is None:
            raise InputError(f"source {self.name}: has no reasoning traces; name another one under data.traces")
        return self.reasoned(split)

    def _check(self, split: Split) -> None:
        if split not in self.serves:
            raise InputError(
                f"source {self.name}: has no {split} split, only {' and '.join(self.serves)}; name another source"
            )


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, by column name."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))
