"""What a data source is, and how the rows of a published file are read and checked."""

import csv
import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from safereason.data.example import Example, Kind, Label
from safereason.data.fetch import File, HubFile, fetch
from safereason.errors import InputError

Split = Literal["train", "test"]
Reader = Callable[[Split], Iterable[Example]]

KIND: dict[Label, Kind] = {"safe": "harmless", "unsafe": "harmful"}
"""What a prompt is, by its label."""


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
    gated: bool = False
    """Whether its publisher wants its terms accepted before a download."""
    rows: int | None = None
    """Rows that its publisher counts, over the splits it serves; None where nobody says."""

    def stream(self, split: Split) -> Iterator[Example]:
        """One example a prompt of this split, one by one: the source may be larger than memory.

        Raises:
            InputError: The source does not serve this split, or its file cannot be had.
        """
        self._check(split)
        yield from self.prompts(split)

    def load(self, split: Split) -> list[Example]:
        """All that `stream` gives."""
        return list(self.stream(split))

    def traces(self, split: Split) -> list[Example]:
        """One example a reasoning trace of this split, with `reasoning` and `answer`.

        Raises:
            InputError: The source has no traces, does not serve this split, or its file cannot be had.
        """
        self._check(split)
        if self.reasoned is None:
            raise InputError(f"source {self.name}: has no reasoning traces; name another one under data.traces")
        return list(self.reasoned(split))

    def _check(self, split: Split) -> None:
        if split not in self.serves:
            raise InputError(
                f"source {self.name}: has no {split} split, only {' and '.join(self.serves)}; name another source"
            )


@dataclass(frozen=True)
class Row:
    """One row of a published file. Where a column is not as its source expects, file, row and column are named."""

    where: str
    """File and row, for messages."""
    number: int
    """Its place in the file, from 1."""
    values: Mapping[str, Any]
    """By column."""

    def __getitem__(self, column: str) -> str:
        """The text of a column.

        Raises:
            InputError: There is no such column, or it holds no text.
        """
        value = self.get(column)
        if not isinstance(value, str):
            raise InputError(f"{self.where}: `{column}` is {value!r:.60}; text is expected")
        return value

    def get(self, column: str) -> Any:
        """What a column holds.

        Raises:
            InputError: There is no such column.
        """
        if column not in self.values:
            columns = ", ".join(map(str, self.values))
            raise InputError(f"{self.where}: no column `{column}`, only {columns}; get the file as it is published")
        return self.values[column]

    def text(self, column: str) -> str | None:
        """The text of a column, or None where it is null or blank."""
        return None if self.get(column) is None or not self[column].strip() else self[column]

    def label(self, column: str, labels: Mapping[Any, Label]) -> Label | None:
        """What a column's value stands for, or None where it is null.

        Raises:
            InputError: The value is none of those that are known.
        """
        value = self.get(column)
        if value is None:
            return None
        for known, label in labels.items():
            if type(value) is type(known) and value == known:
                return label
        expected = " or ".join(map(repr, labels))
        raise InputError(f"{self.where}: `{column}` is {value!r:.60}; {expected} is expected")

    def flag(self, column: str) -> bool:
        """Whether a column is true.

        Raises:
            InputError: It is neither true nor false.
        """
        value = self.get(column)
        if not isinstance(value, bool):
            raise InputError(f"{self.where}: `{column}` is {value!r:.60}; true or false is expected")
        return value

    def chosen(self, column: str) -> str | None:
        """The names that are true in a column of names and booleans, joined as categories are."""
        names = self.get(column)
        if not isinstance(names, dict):
            raise InputError(f"{self.where}: `{column}` is {names!r:.60}; names with true or false are expected")
        return joined(name for name, chosen in names.items() if chosen)


def joined(categories: Iterable[str]) -> str | None:
    """Categories as an example holds them; None where there are none."""
    return "; ".join(categories) or None


def rows(file: File | HubFile) -> Iterator[Row]:
    """The rows of a published file, one by one: .csv, .json, .jsonl or .parquet, the text ones perhaps as .gz or .xz.

    Raises:
        InputError: The file cannot be had, or is not what its name says.
    """
    path = fetch(file)
    number = 0
    try:
        for number, values in enumerate(_READERS[_format(path)](path), start=1):
            yield Row(f"{path}: row {number}", number, values)
    except (OSError, EOFError, ValueError, csv.Error, lzma.LZMAError) as error:
        raise InputError(f"{path}: cannot be read after row {number} ({error}); get it again") from error
    if not number:
        raise InputError(f"{path}: holds no row; get it again")


def read_csv(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file with a header, by column name."""
    with _open(path) as file:
        yield from csv.DictReader(file)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that has one a line."""
    with _open(path) as file:
        for line in file:
            if line.strip():
                yield _object(json.loads(line))


def read_json_list(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that is one list of them."""
    with _open(path) as file:
        found = json.load(file)
    if not isinstance(found, list):
        raise ValueError("a list is expected")
    yield from map(_object, found)


def read_parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, a batch at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


_READERS = {
    ".csv": read_csv,
    ".json": read_json_list,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet_rows,
}


def _format(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in (".gz", ".xz") else path.suffix


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is expected, not {type(value).__name__}")
    return value
