"""Progress of long stages, on stderr: a bar or a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from safereason import processes
from safereason.errors import redacted

# Moves a progress display on by one unit, with a short note.
Advance = Callable[[str], None]
# A log file gets at most four lines a minute from one display.
SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def progress(what: str, total: int | None, done: int = 0) -> Iterator[Advance]:
    """A display of progress. The function that it yields is to be called once per unit.

    Args:
        what: The name of the units, such as `completions`.
        total: The number of units; None where it is not known.
        done: The number of units that an earlier command finished.
    """
    # Of several processes, one display is enough.
    if not processes.is_main():
        yield no_progress
    elif sys.stderr.isatty():
        with _progress_bar(what, total, done) as advance:
            yield advance
    else:
        yield _ProgressLines(what, total, done).advance


def say(line: str) -> None:
    """Prints one line for the person at the terminal, without secrets."""
    if processes.is_main():
        print(redacted(line), file=sys.stderr, flush=True)


def no_progress(note: str) -> None:
    """Advance of a progress bar that is not shown."""


@contextmanager
def _progress_bar(what: str, total: int | None, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=done, note="")

        def advance(note: str) -> None:
            bar.update(task, advance=1, note=note)

        yield advance


class _ProgressLines:
    """Progress as lines: one at the end, and before it one whenever enough time has passed."""

    def __init__(self, what: str, total: int | None, done: int) -> None:
        self._what = what
        self._total = total
        self._count = done
        self._start = time.monotonic()
        self._last_line = self._start

    def advance(self, note: str) -> None:
        self._count += 1
        now = time.monotonic()
        if self._count != self._total and now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        line = f"{self._what}: {self._count}"
        if self._total is not None:
            line += f"/{self._total}"
        line += f" after {now - self._start:.0f} s"
        if note:
            line += f"  {note}"
        say(line)


class SearchDisplay(Protocol):
    """A display of searches, each with the best prompt so far. Several may be under way at once."""

    def step(self, what: str, number: int, value: float | None, spent: int, best: str) -> None:
        """Shows a step of a search.

        Args:
            what: The name of what the search is for, such as a behavior's id.
            number: The step.
            value: The value of the best candidate so far; None where it has none.
            spent: The queries so far.
            best: The best candidate itself.
        """

    def end(self, what: str) -> None:
        """Shows that the search for it is over."""


@contextmanager
def searches(what: str, total: int, done: int, value: str) -> Iterator[SearchDisplay]:
    """A display of searches: a live table on a terminal, plain lines elsewhere.

    Args:
        what: The name of what searches are for, such as `behavior`.
        total: The number of searches.
        done: The number of searches that an earlier command ended.
        value: The name of a step's value, such as `loss`.
    """
    if sys.stderr.isatty():
        with _SearchTable(what, total, done, value) as table:
            yield table
    else:
        yield _SearchLines(what, total, done, value)


# Searches in the table. Rich cannot redraw more lines than a small terminal has.
ROWS_SHOWN = 8
# The least and the most characters of each column: what, step, value, queries, the best so far.
WIDTHS = ((10, 32), (4, 6), (5, 8), (7, 9), (10, None))
# Characters of the best candidate, from its end: a suffix is what a search changes.
BEST_SHOWN = 60


class _SearchTable:
    def __init__(self, what: str, total: int, done: int, value: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._header = (what, "step", value, "queries", "best so far")
        self._total = total
        self._done = done
        self._ended: list[tuple[str, ...]] = []
        # The last step of each search that goes on. Its next step takes the row's place.
        self._under_way: dict[str, tuple[str, ...]] = {}
        self._live = Live(console=Console(stderr=True), refresh_per_second=4, transient=False)

    def __enter__(self) -> "_SearchTable":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def step(self, what: str, number: int, value: float | None, spent: int, best: str) -> None:
        self._under_way[what] = (what, str(number), _format_value(value), str(spent), _last_characters(best))
        self._draw()

    def end(self, what: str) -> None:
        self._done += 1
        if what in self._under_way:
            self._ended.append(self._under_way.pop(what))
        self._draw()

    def _draw(self) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{self._done} of {self._total} done", title_justify="left")
        for name, (least, most) in zip(self._header, WIDTHS, strict=True):
            table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=least, max_width=most)
        rows = [*self._ended, *self._under_way.values()]
        for row in rows[-ROWS_SHOWN:]:
            # Rich reads square brackets in a plain string as markup.
            table.add_row(*map(Text, row))
        self._live.update(table)


class _SearchLines:
    def __init__(self, what: str, total: int, done: int, value: str) -> None:
        self._what = what
        self._total = total
        self._done = done
        self._value = value
        self._last_line = time.monotonic()
        self._under_way: dict[str, str] = {}

    def step(self, what: str, number: int, value: float | None, spent: int, best: str) -> None:
        line = f"{what}: step {number}, {self._value} {_format_value(value)}, {spent} queries"
        self._under_way[what] = line
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            say(line)

    def end(self, what: str) -> None:
        self._done += 1
        say(f"{self._what} {self._done}/{self._total}: {self._under_way.pop(what, '')}")


def _format_value(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}"


def _last_characters(text: str) -> str:
    """The end of a text on one line. A candidate may hold line breaks and escape sequences, which become spaces."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(printable.split())
    if len(line) <= BEST_SHOWN:
        return line
    return f"…{line[-BEST_SHOWN:]}"
