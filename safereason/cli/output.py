"""The output of commands: tables, summaries and JSON on stdout, everything else on stderr."""

import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import BufferedIOBase
from typing import TYPE_CHECKING

from safereason.text.visible import visible

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from safereason.runs.records import Record

# Between two columns, and the indent of a section.
GAP = "  "


@contextmanager
def results_only() -> Iterator[None]:
    """A context in which what libraries print goes to stderr, so that stdout holds the result only."""
    with redirect_stdout(sys.stderr):
        yield


class ClosedStdout(BufferedIOBase):
    """The stdout of a command that was started with stdout closed: the first write fails, as results would be lost."""

    def __init__(self) -> None:
        # This takes the number of the closed stream. Otherwise the next file that is opened would get it, and
        # everything that is printed would end up in that file.
        self._number = os.open(os.devnull, os.O_WRONLY)
        self._has_raised = False

    def fileno(self) -> int:
        """The number of the file descriptor."""
        return self._number

    def writable(self) -> bool:
        """True: a text stream around it may be made."""
        return True

    def write(self, content: "ReadableBuffer") -> int:
        """Raises an error at the first write only.

        Raises:
            OSError: stdout is closed.
        """
        # The interpreter flushes once more when it ends; a second error there would be printed as a traceback.
        if not self._has_raised:
            self._has_raised = True
            raise OSError(errno.EBADF, "it is closed")
        return memoryview(content).nbytes


def print_json(document: object) -> None:
    """Prints one JSON document."""
    # `default` writes paths and dates, which JSON lacks, as texts.
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a rich table on a terminal, aligned text elsewhere; None is an empty cell."""
    cells = [[_cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, cells)
    else:
        print_aligned([list(columns), *cells])


def print_aligned(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Prints rows in columns, each as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print(f"{indent}{GAP.join(padded)}".rstrip())


def print_mapping(document: Mapping[str, object], indent: str = "") -> None:
    """Prints a nested mapping as aligned lines; a mapping inside becomes a section of its own."""
    lines: list[list[str]] = []
    sections: dict[str, Mapping[str, object]] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            sections[key] = value
        else:
            lines.append([key, short(value)])
    # Plain values come before every section: a line after a section would look like a part of it.
    if lines:
        print_aligned(lines, indent)
    for key, section in sections.items():
        print(f"{indent}{key}")
        print_mapping(section, f"{indent}{GAP}")


def print_figures(figures: "Sequence[Record]") -> None:
    """Prints measured figures, one a line, with n, the 95 % interval and the count unscored.

    Two kinds of unscored items, failed and filtered ones, have columns of their own where there are any.
    """
    columns = ["figure", "of", "value [95 % interval]", "n", "unscored"]
    kinds: list[str] = []
    for kind in ("failed", "filtered"):
        if any(figure.get(kind) for figure in figures):
            kinds.append(kind)
            columns.append(f"of them {kind}")
    rows: list[list[object]] = []
    for figure in figures:
        row = [figure["name"], figure["group"], interval(figure), figure["n"], figure["unscored"]]
        # A run of an earlier version has no count of its own for these kinds.
        row += [figure.get(kind, 0) for kind in kinds]
        rows.append(row)
    print_table(columns, rows)


def interval(figure: "Record") -> str:
    """A figure's value and interval, such as `0.930 [0.901, 0.952]`."""
    value = figure["value"]
    if value is None:
        return "unscored"
    if figure["low"] is None or figure["high"] is None:
        return f"{value:.3f}"
    return f"{value:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def short(value: object) -> str:
    """A value on one line, in the style of YAML."""
    match value:
        case None:
            return "-"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case str():
            return visible(value).replace("\n", "\\n")
    return visible(json.dumps(value, ensure_ascii=False, default=str))


def _cell(value: object) -> str:
    if value is None:
        return ""
    return visible(str(value))


def _print_rich(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        # Rich reads square brackets in a plain string as markup.
        table.add_row(*map(Text, row))
    Console().print(table)
