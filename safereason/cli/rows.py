"""Rows of examples, rollouts and completions: reading them one by one, filtering, and their text for a person."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from safereason.cli import output, rendered
from safereason.cli.rendered import TableRow
from safereason.console import say
from safereason.data.example import COLUMNS, Example, stream_parquet
from safereason.errors import InputError
from safereason.recipe.named import SUFFIXES as YAML
from safereason.runs.directory import read_manifest, rows_of
from safereason.text.visible import visible

if TYPE_CHECKING:
    from safereason.data.sources import Split

# A row with its number in the file or source, from 1.
Numbered = tuple[int, TableRow]

# The files that `data show` prints of a run, by the stage or its first part: the first file that is there.
RUN_FILES = {
    "data/traces": ("traces.parquet", "replies.jsonl"),
    "data": ("train.parquet",),
    "rl": ("rollouts.jsonl",),
    "guard/rl": ("rollouts.jsonl",),
    "eval/guard": ("predictions.jsonl",),
    "eval": ("completions.jsonl",),
}
SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class OpenedRows:
    """The rows of a file or source. They are read while they are iterated over, once."""

    name: str
    """The file, or the source and its split."""
    rows: Iterable[TableRow]


def open_rows(target: str, split: "Split | None", traces: bool) -> OpenedRows:
    """The rows of a data source, a run directory or a file. Of a source and a path of one name, the source wins.

    Args:
        target: The source's name, or the path.
        split: The split of a source; by default the first that it serves.
        traces: Whether to read a source's reasoning traces in place of its prompts.

    Raises:
        InputError: There is no such source or path, or a split or traces are given for a path.
    """
    from safereason.data import sources

    if _is_source(target):
        source = sources.get(target)
        chosen = split or source.serves[0]
        examples = source.traces(chosen) if traces else source.stream(chosen)
        return OpenedRows(f"{source.name}, {chosen}", map(_row_of_example, examples))
    # A file has no splits. Read whole, its rows would pass for those of the split.
    if split or traces:
        raise InputError(f"{target}: --{'split' if split else 'traces'} is for data sources, and this is none")
    file = _file_with_rows(Path(target))
    return OpenedRows(str(file), _read_table_rows(file))


def _is_source(target: str) -> bool:
    """Whether the target is meant as a data source, not as a path."""
    from safereason.data.sources import SOURCES

    if target.endswith(YAML) or SOURCES.has(target):
        return True
    # A single word that is no file is a misspelt name. The registry's error suggests the right one.
    path = Path(target)
    return not (path.suffix or len(path.parts) > 1 or path.exists())


def _row_of_example(example: Example) -> TableRow:
    row: TableRow = {}
    for column in COLUMNS:
        value = getattr(example, column)
        if value is not None:
            row[column] = value
    return row


def _file_with_rows(target: Path) -> Path:
    """The file itself; of a run directory, the file with its main rows.

    Raises:
        InputError: The folder is no run directory, or its stage writes no such rows.
    """
    if not target.is_dir():
        return target
    manifest = read_manifest(target)
    if manifest is None:
        raise InputError(f"{target}: no run directory; name a run or one of its .parquet or .jsonl files")
    stage: str = manifest["stage"]
    names = sorted(path.name for path in target.iterdir() if path.suffix in SUFFIXES)
    for name in RUN_FILES.get(stage) or RUN_FILES.get(stage.partition("/")[0], ()):
        if name in names:
            others = ", ".join(other for other in names if other != name)
            if others:
                say(f"{target / name}; also there: {others}")
            return target / name
    raise InputError(f"{target}: which rows of this {stage} run? name a file of it: {', '.join(names) or 'none'}")


def _read_table_rows(path: Path) -> Iterator[TableRow]:
    from safereason.data.sources.base import FILE_ENDINGS, read_rows

    if path.suffix == ".jsonl":
        return rows_of(path)
    if path.suffix == ".parquet":
        return stream_parquet(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file or run; `safereason data ls` lists the sources")
    if path.name.endswith(FILE_ENDINGS):
        return (dict(row.values) for row in read_rows(path, advice="mend the file"))
    raise InputError(f"{path}: rows are read from .jsonl, .json, .csv, .tsv or .parquet files")


@dataclass(frozen=True)
class Filter:
    """A choice of rows: those that agree with each field that is not None."""

    kind: str | None = None
    source: str | None = None
    label: str | None = None
    id: str | None = None
    category: str | None = None
    """One of the row's categories, in any case."""
    match: str | None = None
    """A part of one of the row's texts, in any case."""

    def keeps(self, row: TableRow) -> bool:
        """Whether the row agrees with every field."""
        for key in ("kind", "source", "label", "id"):
            value = getattr(self, key)
            if value is not None and value != row.get(key):
                return False
        return self._has_category(row) and self._has_match(row)

    def _has_category(self, row: TableRow) -> bool:
        if self.category is None:
            return True
        # Some files hold a list of categories, others one text that joins them.
        categories = row.get("categories") or row.get("category")
        if not isinstance(categories, list):
            categories = str(categories or "").split("; ")
        return self.category.casefold() in [str(name).casefold() for name in categories]

    def _has_match(self, row: TableRow) -> bool:
        if self.match is None:
            return True
        part = self.match.casefold()
        return any(isinstance(value, str) and part in value.casefold() for value in row.values())

    def __str__(self) -> str:
        """The filter as options of the command line."""
        # The options have the names of the fields.
        return " ".join(f"--{name} {value}" for name, value in vars(self).items() if value is not None)


def select(rows: Iterable[TableRow], row_filter: Filter, skip: int, limit: int | None) -> Iterator[Numbered]:
    """The rows to show, each with its number in the whole; `skip` and `limit` count only rows that the filter keeps."""
    end = None if limit is None else skip + limit
    return islice(_numbered_rows(rows, row_filter), skip, end)


def _numbered_rows(rows: Iterable[TableRow], row_filter: Filter) -> Iterator[Numbered]:
    for number, row in enumerate(rows, start=1):
        if row_filter.keeps(row):
            yield number, row


def text_of_row(number: int, row: TableRow, rendering: rendered.Rendered | None, coloured: bool) -> str:
    """One row for a person: its short values on the first line, its texts below.

    Args:
        number: The row's number.
        row: The row.
        rendering: Its training text, which takes the place of its texts; None shows the texts.
        coloured: Whether the trained part of the rendering is green.
    """
    short_values: list[str] = []
    long_values: TableRow = {}
    for key, value in row.items():
        if _is_long(key, value):
            long_values[key] = value
        elif value is not None:
            short_values.append(f"{key}={output.short(value)}")
    lines = [visible(f"── {number} ── {'  '.join(short_values)}")]
    if rendering is not None:
        lines += rendered.rendered_lines(rendering, coloured)
        # A completion is no part of the training text, so it is shown beside it.
        long_values = {key: value for key, value in long_values.items() if key == "text"}
    for key, value in long_values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(visible(f"{key}:"))
        lines += [f"  {line}" for line in visible(text).split("\n")]
    return "\n".join(lines) + "\n\n"


# Columns that are shown below the first line however short they are, so that rows look alike.
TEXT_KEYS_SHOWN = ("prompt", "reasoning", "answer", "response", "text", "completion")
# Characters of the longest text on a row's first line.
LONGEST_IN_HEAD = 60


def _is_long(key: str, value: object) -> bool:
    if isinstance(value, str):
        return key in TEXT_KEYS_SHOWN or len(value) > LONGEST_IN_HEAD or "\n" in value
    return isinstance(value, (list, dict))


def print_json_rows(documents: Iterable[TableRow]) -> None:
    """Prints one JSON list, row by row: the whole may be larger than memory."""
    opening = "["
    for document in documents:
        lines = json.dumps(document, indent=2, ensure_ascii=False, default=str).replace("\n", "\n  ")
        print(opening, lines, sep="\n  ", end="")
        opening = ","
    # No row was printed, so the list has to be opened too.
    if opening == "[":
        print("[]")
    else:
        print("\n]")


def can_browse() -> bool:
    """Whether a person at a terminal can page through rows."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def has_colour() -> bool:
    """Whether stdout is a terminal that shows colours, and `NO_COLOR` is not set (https://no-color.org)."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def browse(texts: Iterator[str]) -> bool:
    """Whether there was any text; all are given to the person's pager, which takes them as it needs them.

    Raises:
        InputError: A row could not be read or rendered; the pager showed those before it.
    """
    import click

    first = next(texts, None)
    if first is None:
        return False
    errors: list[InputError] = []

    # An error ends the texts, so that the pager shows the rows before it. It is raised once the pager has ended.
    def until_an_error() -> Iterator[str]:
        try:
            yield from chain([first], texts)
        except InputError as error:
            errors.append(error)

    # The options that git sets: less shows colours, and ends at once where all is on one screen.
    os.environ.setdefault("LESS", "-FRX")
    click.echo_via_pager(until_an_error())
    for error in errors:
        raise error
    return True
