"""What commands print: tables, summaries and JSON on stdout, everything else on stderr."""

import errno
import json
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import BufferedIOBase
from typing import Any

GAP = "  "


@contextmanager
def results_only() -> Iterator[None]:
    """Keeps what libraries print off stdout while a stage works."""
    with redirect_stdout(sys.stderr):
        yield


class Closed(BufferedIOBase):
    """In place of a stdout that was closed: results that are written to it are lost, and that is an error, once."""

    def __init__(self) -> None:
        # It has the number of the closed stream, lest a file that is opened later gets that.
        self._number = os.open(os.devnull, os.O_WRONLY)
        self._is_told = False

    def fileno(self) -> int:
        """Its number."""
        return self._number

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, content: Any) -> int:
        """Raises that it is closed; the interpreter's own last flush finds nothing wrong."""
        if not self._is_told:
            self._is_told = True
            raise OSError(errno.EBADF, "it is closed")
        return len(content)


def print_json(document: Any) -> None:
    """One JSON document."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A rich table on a terminal, aligned text elsewhere."""
    cells = [["" if value is None else visible(str(value)) for value in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, cells)
    else:
        print_aligned([list(columns), *cells])


def print_aligned(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Rows in columns of equal width."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print(f"{indent}{GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))}".rstrip())


def print_mapping(document: Mapping[str, Any], indent: str = "") -> None:
    """A nested mapping as aligned lines; a mapping inside becomes a section of its own."""
    flat = {key: value for key, value in document.items() if not isinstance(value, Mapping)}
    if flat:
        print_aligned([[key, short(value)] for key, value in flat.items()], indent)
    for key, value in document.items():
        if isinstance(value, Mapping):
            print(f"{indent}{key}")
            print_mapping(value, f"{indent}{GAP}")


def print_figures(figures: Sequence[Mapping[str, Any]]) -> None:
    """Measured figures, one a line, with n, the 95 % interval and the count unscored.

    Of those unscored, the ones that failed or were filtered have columns of their own where there are any.
    """
    extra = [name for name in ("failed", "filtered") if any(figure.get(name) for figure in figures)]
    rows = [
        (f["name"], f["group"], interval(f), f["n"], f["unscored"], *(f.get(name, 0) for name in extra))
        for f in figures
    ]
    print_table(
        ("figure", "of", "value [95 % interval]", "n", "unscored", *(f"of them {name}" for name in extra)), rows
    )


def interval(figure: Mapping[str, Any]) -> str:
    """A figure's value and interval, such as `0.930 [0.901, 0.952]`."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return "unscored"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def short(value: Any) -> str:
    """A value on one line, as YAML would have it."""
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


def visible(text: str) -> str:
    """The text with control, format and surrogate characters escaped, so that none of them acts on the terminal."""
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(_escape(c) if unicodedata.category(c) in hidden and c not in "\n\t" else c for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _print_rich(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
