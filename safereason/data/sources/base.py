"""The data source, and reading and checking of the rows of published files."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar

from safereason.data.example import Example, PromptKind, RawRow, parquet_rows
from safereason.data.fetch import File, HubFile, fetch
from safereason.data.sources import json_list
from safereason.errors import InputError
from safereason.files import BROKEN, LONGEST_ROW, PACKED, TableLines, form_suffix, from_json, json_type, lines, opened
from safereason.text.verdict import Label

Split = Literal["train", "test"]
ExampleReader = Callable[[Split], Iterable[Example]]
"""Reads the examples of a split."""
CellT = TypeVar("CellT", bound=Hashable)

# A parquet file is packed in itself.
_TEXT_FORMATS = (".csv", ".tsv", ".json", ".jsonl")
FILE_ENDINGS = (*(f"{name}{packed}" for name in _TEXT_FORMATS for packed in ("", *PACKED)), ".parquet")
"""Endings of the names of files of rows."""
KIND: dict[Label, PromptKind] = {"safe": "harmless", "unsafe": "harmful"}
"""The kind of a prompt that a source labels safe or unsafe."""


@dataclass(frozen=True)
class Source:
    """A dataset of examples. It serves only the splits that it declares, so that nobody trains on a test set."""

    name: str
    """Name in recipes and on the command line."""
    title: str
    """Short description of its contents."""
    page: str
    """Address of the publisher's description."""
    licence: str
    """SPDX identifier of the licence, or words where there is none: `yours`, `none stated`."""
    serves: tuple[Split, ...]
    """Splits that it may be used as."""
    prompts: ExampleReader
    """Reads the prompts, one example each."""
    reasoned: ExampleReader | None = None
    """Reads the reasoning traces, one example each; None for a source without traces."""
    gated: bool = False
    """Whether the publisher's terms must be accepted before a download."""
    rows: int | None = None
    """Number of rows over the splits that it serves, as the publisher counts them; None where it is not published."""

    @property
    def summary(self) -> str:
        """Title, by which a listing describes the source."""
        return self.title

    def stream(self, split: Split) -> Iterator[Example]:
        """The prompts of a split, one by one, so the source may be larger than memory.

        Raises:
            InputError: The source does not serve this split, or its file is missing and cannot be downloaded.
        """
        # Not a generator itself, so that a wrong split is refused by the call and not by the first row.
        self.check(split)
        return iter(self.prompts(split))

    def load(self, split: Split) -> list[Example]:
        """All examples of `stream` in a list."""
        return list(self.stream(split))

    def traces(self, split: Split) -> list[Example]:
        """The reasoning traces of a split, with `reasoning` and `answer`.

        Raises:
            InputError: The source has no traces, does not serve this split, or its file is missing.
        """
        self.check(split)
        if self.reasoned is None:
            raise InputError(f"source {self.name}: has no reasoning traces; name another one under data.traces")
        return list(self.reasoned(split))

    def check(self, split: Split) -> None:
        """Refuses a split that the source must not be used as.

        Raises:
            InputError: The source does not serve this split.
        """
        if split not in self.serves:
            raise InputError(
                f"source {self.name}: has no {split} split, only {' and '.join(self.serves)}; name another source"
            )


@dataclass(frozen=True)
class SourceRow:
    """One row of a published file. Its errors name the file, the row and the column."""

    file: Path
    """Path of the file, for errors."""
    number: int
    """Number of the row in the file, from 1."""
    values: Mapping[str, Any]
    """Values of the row's columns, unchecked."""
    advice: str = "get the file as it is published"
    """Advice at the end of errors about missing columns."""

    @property
    def where(self) -> str:
        """File and row, for errors."""
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
        """The value of a column.

        Raises:
            InputError: There is no such column.
        """
        if column not in self.values:
            columns = ", ".join(map(str, self.values))
            raise InputError(f"{self.where}: no column `{column}`, only {columns}; {self.advice}")
        return self.values[column]

    def text(self, column: str) -> str | None:
        """The text of a column, or None where it is null or blank."""
        if self.get(column) is None or not self[column].strip():
            return None
        return self[column]

    def label(self, column: str, labels: Mapping[CellT, Label]) -> Label | None:
        """The label of a column's value, or None where the value is null.

        Args:
            column: Name of the column.
            labels: Label of each value that the column may have.

        Raises:
            InputError: The value is not in `labels`.
        """
        value = self.get(column)
        if value is None:
            return None
        for known, label in labels.items():
            # Python takes True for 1, and a file with one in place of the other is not the file meant.
            if type(value) is type(known) and value == known:
                return label
        expected = " or ".join(map(repr, labels))
        raise InputError(f"{self.where}: `{column}` is {value!r:.60}; {expected} is expected")

    def flag(self, column: str) -> bool:
        """The truth value of a column.

        Raises:
            InputError: The value is neither true nor false.
        """
        value = self.get(column)
        if not isinstance(value, bool):
            raise InputError(f"{self.where}: `{column}` is {value!r:.60}; true or false is expected")
        return value

    def chosen(self, column: str) -> str | None:
        """The names that are true in a column of names and booleans, joined as categories.

        Raises:
            InputError: The column holds no mapping.
        """
        flags = self.get(column)
        if not isinstance(flags, dict):
            raise InputError(f"{self.where}: `{column}` is {flags!r:.60}; names with true or false are expected")
        return join_categories(name for name, is_chosen in flags.items() if is_chosen)


def join_categories(categories: Iterable[str]) -> str | None:
    """The text of several categories in `Example.category`; None where there are none."""
    return "; ".join(categories) or None


def published_rows(file: File | HubFile, columns: Sequence[str] | None = None) -> Iterator[SourceRow]:
    """Rows of a published file, one by one.

    Args:
        file: A .csv, .tsv, .json, .jsonl or .parquet file. The text formats may be packed as .gz or .xz.
        columns: Columns to read of a .parquet file, for files with large other columns; None reads all.

    Raises:
        InputError: The file is missing and cannot be downloaded, or its contents do not fit its name.
    """
    yield from read_rows(fetch(file), columns)


def read_rows(path: Path, columns: Sequence[str] | None = None, advice: str | None = None) -> Iterator[SourceRow]:
    """Rows of a file on this machine, one by one.

    Args:
        path: A file in one of the formats of `published_rows`.
        columns: Columns to read of a .parquet file; None reads all.
        advice: Advice for a mistake in a file of your own. With it, tables are read strictly: quotes are in pairs, each
            row has as many cells as the header, and an empty cell is null.

    Raises:
        InputError: The contents do not fit the name, or there is no row.
    """
    number = 0
    repair = advice or "get it again"
    try:
        for number, values in enumerate(_parse_rows(path, columns, strict=advice is not None), start=1):
            yield SourceRow(path, number, values, advice or SourceRow.advice)
    except (*BROKEN, csv.Error) as error:
        raise InputError(f"{path}: cannot be read after row {number} ({_error_reason(error)}); {repair}") from error
    if not number:
        raise InputError(f"{path}: holds no row; {repair}")


def with_unique_ids(examples: Iterable[Example], path: Path) -> Iterator[Example]:
    """The examples of your own file, one by one, checked for repeated ids.

    Raises:
        InputError: An earlier example has the same id.
    """
    # About 100 bytes for each example, far less than the examples themselves.
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise InputError(f"{path}: the id {example.id!r} is there more than once; give each row its own")
        seen.add(example.id)
        yield example


def traces_of(prompts: ExampleReader) -> ExampleReader:
    """The reader of those examples that have a trace: reasoning or an answer to learn from."""

    def traces(split: Split) -> Iterator[Example]:
        return (example for example in prompts(split) if example.reasoning is not None or example.answer is not None)

    return traces


def _parse_rows(path: Path, columns: Sequence[str] | None, strict: bool) -> Iterator[RawRow]:
    match form_suffix(path):
        case ".parquet":
            return parquet_rows(path, columns)
        case ".csv":
            return _table_rows(path, ",", strict)
        case ".tsv":
            return _table_rows(path, "\t", strict)
        case ".json":
            return _json_list_objects(path)
    return _json_line_objects(path)


def _table_rows(path: Path, delimiter: str, strict: bool) -> Iterator[RawRow]:
    """Rows of a table with a header, by column name."""
    # The module's own limit is shorter than a long trace. It can only be set for the whole process.
    csv.field_size_limit(LONGEST_ROW)
    with _open_text(path) as file:
        bounded = TableLines(file)
        table = csv.DictReader(bounded, delimiter=delimiter, strict=strict)
        # DictReader would keep the last of two columns with one name, without a word.
        for name, count in Counter(table.fieldnames).items():
            if count > 1:
                raise ValueError(f"its header has {name!r} {count} times")
        for row in table:
            if strict:
                _check_cell_count(row, table.line_num)
                yield {column: cell or None for column, cell in row.items()}
            else:
                # In published tables an empty cell is an empty text.
                yield row
            bounded.begin_row()


def _check_cell_count(row: RawRow, line: int) -> None:
    # DictReader puts surplus cells under the key None, and gives missing cells the value None.
    if None in row:
        raise ValueError(f"line {line} has more cells than the header")
    if None in row.values():
        raise ValueError(f"line {line} has fewer cells than the header")


def _json_line_objects(path: Path) -> Iterator[RawRow]:
    """Objects of a file with one on each line."""
    with opened(path) as file:
        for _, line in lines(file):
            yield _require_object(from_json(line))


def _json_list_objects(path: Path) -> Iterator[RawRow]:
    """Objects of a file that is one list."""
    with _open_text(path) as file:
        for item in json_list.list_items(file):
            yield _require_object(item)


def _open_text(path: Path) -> TextIO:
    # `utf-8-sig` skips the byte order mark that spreadsheets write. An empty `newline` leaves line breaks in quoted
    # cells as they are.
    return io.TextIOWrapper(opened(path), encoding="utf-8-sig", newline="")


def _error_reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _require_object(value: object) -> RawRow:
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is expected, not {json_type(value)}")
    return value
