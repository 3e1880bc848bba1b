"""Rows of examples, rollouts and completions: found, read one by one, chosen, and put as text for a person."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safereason.cli import output, rendered
from safereason.console import say
from safereason.data.example import COLUMNS, Example, stream_parquet
from safereason.errors import InputError
from safereason.recipe.load import SUFFIXES as YAML
from safereason.runs.directory import read_manifest, rows_of

if TYPE_CHECKING:
    from safereason.data.sources import Split

Row = dict[str, Any]
Numbered = tuple[int, Row]

RUN_FILES = {
    "data/traces": ("traces.parquet", "replies.jsonl"),
    "data": ("train.parquet",),
    "rl": ("rollouts.jsonl",),
    "guard/rl": ("rollouts.jsonl",),
    "eval/guard": ("predictions.jsonl",),
    "eval": ("completions.jsonl",),
}
"""What `data show` prints of a run, by its stage or the first part of that: the first file that is there."""
SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Rows:
    """Rows with a name."""

    name: str
    """The file or source they are of."""
    rows: Iterable[Row]


def open_rows(target: str, split: "Split | None", traces: bool) -> Rows:
    """The rows of a data source, a run directory or a file; a source's name goes before a path of that name.

    Args:
        target: Any of the three.
        split: Of a source: what it is read as, by default the first that it serves.
        traces: Of a source: its reasoning traces in place of its prompts.

    Raises:
        InputError: There is nothing of that name, or a run or file is to have a split or traces.
    """
    from safereason.data import sources

    if _is_source(target):
        source = sources.get(target)
        chosen = split or source.serves[0]
        examples = source.traces(chosen) if traces else source.stream(chosen)
        return Rows(f"{source.name}, {chosen}", map(_row, examples))
    if split or traces:
        raise InputError(f"{target}: --{'split' if split else 'traces'} is for data sources, and this is none")
    file = _file_of(Path(target))
    return Rows(str(file), _read(file))


def _is_source(target: str) -> bool:
    """Whether it is the name of a source, a description of one, or a word that is no file: a name that is misspelt."""
    from safereason.data.sources import SOURCES

    path = Path(target)
    is_word = not (path.suffix or len(path.parts) > 1 or path.exists())
    return target in SOURCES or target.endswith(YAML) or is_word


def _row(example: Example) -> Row:
    return {name: value for name in COLUMNS if (value := getattr(example, name)) is not None}


def _file_of(target: Path) -> Path:
    """The file itself, or the file of a run directory that is looked at."""
    if not target.is_dir():
        return target
    manifest = read_manifest(target)
    if manifest is None:
        raise InputError(f"{target}: no run directory; name a run or one of its .parquet or .jsonl files")
    stage = manifest["stage"]
    there = sorted(p.name for p in target.iterdir() if p.suffix in SUFFIXES)
    name = next((n for n in RUN_FILES.get(stage) or RUN_FILES.get(stage.partition("/")[0], ()) if n in there), None)
    if name is None:
        raise InputError(f"{target}: which rows of this {stage} run? name a file of it: {', '.join(there) or 'none'}")
    if others := ", ".join(n for n in there if n != name):
        say(f"{target / name}; also there: {others}")
    return target / name


def _read(path: Path) -> Iterator[Row]:
    from safereason.data.sources.base import FORMATS, read_rows

    if path.suffix == ".jsonl":
        return rows_of(path)
    if path.suffix == ".parquet":
        return stream_parquet(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file or run; `safereason data ls` lists the sources")
    if path.name.endswith(FORMATS):
        return (dict(row.values) for row in read_rows(path, mend="mend the file"))
    raise InputError(f"{path}: rows are read from .jsonl, .json, .csv, .tsv or .parquet files")


@dataclass(frozen=True)
class Filter:
    """Which rows are looked at; None takes all."""

    kind: str | None = None
    source: str | None = None
    label: str | None = None
    id: str | None = None
    category: str | None = None
    """One of the row's categories, in whatever case."""
    match: str | None = None
    """What one of the row's texts holds, in whatever case."""

    def keeps(self, row: Row) -> bool:
        """Whether the row passes all of it."""
        exact = all(getattr(self, key) in (None, row.get(key)) for key in ("kind", "source", "label", "id"))
        return exact and self._has_category(row) and self._matches(row)

    def _has_category(self, row: Row) -> bool:
        if self.category is None:
            return True
        found = row.get("categories") or row.get("category")
        names = found if isinstance(found, list) else str(found or "").split("; ")
        return self.category.casefold() in (str(name).casefold() for name in names)

    def _matches(self, row: Row) -> bool:
        if self.match is None:
            return True
        wanted = self.match.casefold()
        return any(isinstance(value, str) and wanted in value.casefold() for value in row.values())

    def __str__(self) -> str:
        """What is asked for, as on the command line."""
        asked = ((f.name, getattr(self, f.name)) for f in fields(self))
        return " ".join(f"--{name} {value}" for name, value in asked if value is not None)


def select(rows: Iterable[Row], wanted: Filter, skip: int, limit: int | None) -> Iterator[Numbered]:
    """The rows to show, each with its number from 1; `skip` and `limit` count rows that are wanted."""
    numbered = ((number, row) for number, row in enumerate(rows, start=1) if wanted.keeps(row))
    return islice(numbered, skip, None if limit is None else skip + limit)


def text(number: int, row: Row, shown: "rendered.Rendered | None", coloured: bool) -> str:
    """One row: its short values on the first line, its texts below, or in place of these what a model reads."""
    body = {key: value for key, value in row.items() if _is_long(key, value)}
    head = [f"{key}={output.short(value)}" for key, value in row.items() if key not in body and value is not None]
    lines = [output.visible(f"── {number} ── {'  '.join(head)}")]
    if shown is not None:
        lines += rendered.lines(shown, coloured)
        body = {key: value for key, value in body.items() if key == "text"}
    for key, value in body.items():
        written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines += [output.visible(f"{key}:"), *(f"  {line}" for line in output.visible(written).split("\n"))]
    return "\n".join(lines) + "\n\n"


TEXTS = ("prompt", "reasoning", "answer", "response", "text", "completion")
LONGEST_IN_HEAD = 60
"""Characters of a text that still stands on a row's first line."""


def _is_long(key: str, value: Any) -> bool:
    if isinstance(value, str):
        return key in TEXTS or len(value) > LONGEST_IN_HEAD or "\n" in value
    return isinstance(value, (list, dict))


def print_json(documents: Iterable[Any]) -> None:
    """One JSON list, written as its documents come: it may be larger than memory."""
    empty = True
    for document in documents:
        lines = json.dumps(document, indent=2, ensure_ascii=False, default=str).replace("\n", "\n  ")
        print("[" if empty else ",", lines, sep="\n  ", end="")
        empty = False
    print("[]" if empty else "\n]")


def can_browse() -> bool:
    """Whether there is a person at a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def has_colour() -> bool:
    """Whether stdout is a terminal that shows colours, and nobody asked for none."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def browse(texts: Iterator[str]) -> bool:
    """Hands texts to the person's pager as it asks for them, and returns whether there was any.

    Raises:
        InputError: One could not be made; those before it were shown.
    """
    import click

    first = next(texts, None)
    if first is None:
        return False
    errors: list[InputError] = []

    def until_an_error() -> Iterator[str]:
        try:
            yield from chain([first], texts)
        except InputError as error:
            errors.append(error)

    os.environ.setdefault("LESS", "-FRX")  # as git does: colours, and no waiting where all is on one screen
    click.echo_via_pager(until_an_error())
    for error in errors:
        raise error
    return True
