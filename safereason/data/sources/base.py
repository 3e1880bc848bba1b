"""What a data source is, and how the rows of a published file are read and checked."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from safereason.data.example import Example, Kind, Label, parquet_rows
from safereason.data.fetch import File, HubFile, fetch
from safereason.data.sources import json_list
from safereason.errors import InputError
from safereason.files import BROKEN, LONGEST_ROW, PACKED, TableLines, form_suffix, from_json, json_type, lines, opened

Split = Literal["train", "test"]
Reader = Callable[[Split], Iterable[Example]]

_TEXTS = (".csv", ".tsv", ".json", ".jsonl")
FORMATS = (*(f"{name}{packed}" for name in _TEXTS for packed in ("", *PACKED)), ".parquet")
"""How the name of a file of rows may end."""
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
        self.check(split)
        return iter(self.prompts(split))

    def load(self, split: Split) -> list[Example]:
        """All that `stream` gives."""
        return list(self.stream(split))

    def traces(self, split: Split) -> list[Example]:
        """One example a reasoning trace of this split, with `reasoning` and `answer`.

        Raises:
            InputError: The source has no traces, does not serve this split, or its file cannot be had.
        """
        self.check(split)
        if self.reasoned is None:
            raise InputError(f"source {self.name}: has no reasoning traces; name another one under data.traces")
        return list(self.reasoned(split))

    def check(self, split: Split) -> None:
        """Refuses a split that it is not to be used as.

        Raises:
            InputError: It does not serve this split.
        """
        if split not in self.serves:
            raise InputError(
                f"source {self.name}: has no {split} split, only {' and '.join(self.serves)}; name another source"
            )


@dataclass(frozen=True)
class Row:
    """One row of a published file. Where a column is not as its source expects, file, row and column are named."""

    file: Path
    """Where it is read from."""
    number: int
    """Its place in the file, from 1."""
    values: Mapping[str, Any]
    """By column."""
    advice: str = "get the file as it is published"
    """What to do where it is not as it should be."""

    @property
    def where(self) -> str:
        """File and row, for messages."""
        return f"{self.file}: row {self.number}"

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
            raise InputError(f"{self.where}: no column `{column}`, only {columns}; {self.advice}")
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


def rows(file: File | HubFile, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a published file, one by one.

    Args:
        file: A .csv, .tsv, .json, .jsonl or .parquet file, the text ones perhaps as .gz or .xz.
        columns: Columns that are read of a .parquet file, where others are large; None reads all.

    Raises:
        InputError: The file cannot be had, or is not what its name says.
    """
    yield from read_rows(fetch(file), columns)


def read_rows(path: Path, columns: Sequence[str] | None = None, mend: str | None = None) -> Iterator[Row]:
    """The rows of a file on this machine, as `rows` has them.

    Args:
        path: The file.
        columns: As of `rows`.
        mend: What is to be done about a mistake in a file of a person's own. Its tables are read strictly: quotes are
            in pairs, each row has as many cells as the header, and an empty cell is null.

    Raises:
        InputError: It is not what its name says, or holds no row.
    """
    number, again = 0, mend or "get it again"
    try:
        for number, values in enumerate(_read(path, columns, strict=mend is not None), start=1):
            yield Row(path, number, values, mend or Row.advice)
    except (*BROKEN, csv.Error) as error:
        raise InputError(f"{path}: cannot be read after row {number} ({_why(error)}); {again}") from error
    if not number:
        raise InputError(f"{path}: holds no row; {again}")


def told_apart(examples: Iterable[Example], path: Path) -> Iterator[Example]:
    """A person's own examples, as long as each has an id of its own; about 100 bytes are held for each.

    Raises:
        InputError: An id is there before.
    """
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise InputError(f"{path}: the id {example.id!r} is there more than once; give each row its own")
        seen.add(example.id)
        yield example


def _read(path: Path, columns: Sequence[str] | None, strict: bool) -> Iterator[dict[str, Any]]:
    name = form_suffix(path)
    if name == ".parquet":
        return parquet_rows(path, columns)
    if name in (".csv", ".tsv"):
        return _table(path, "\t" if name == ".tsv" else ",", strict)
    return _json_list(path) if name == ".json" else _json_lines(path)


def _table(path: Path, delimiter: str, strict: bool) -> Iterator[dict[str, Any]]:
    """The rows of a table with a header, by column name."""
    # Of all that this process reads: there is no other way. The library's own limit is less than a long trace.
    csv.field_size_limit(LONGEST_ROW)
    with _text(path) as file:
        within = TableLines(file)
        table = csv.DictReader(within, delimiter=delimiter, strict=strict)
        for name, count in Counter(table.fieldnames).items():
            if count > 1:
                raise ValueError(f"its header has {name!r} {count} times")
        for row in table:
            if strict and (None in row or None in row.values()):
                than = "more" if None in row else "fewer"
                raise ValueError(f"line {table.line_num} has {than} cells than the header")
            yield {column: cell or None for column, cell in row.items()} if strict else row
            within.begin_row()


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that has one a line."""
    with opened(path) as file:
        for _, line in lines(file):
            yield _object(from_json(line))


def _json_list(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that is one list of them."""
    with _text(path) as file:
        yield from map(_object, json_list.items(file))


def _text(path: Path) -> TextIO:
    return io.TextIOWrapper(opened(path), encoding="utf-8-sig", newline="")


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is expected, not {json_type(value)}")
    return value
