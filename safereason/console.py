"""What a long stage says while it works: a progress bar on a terminal, plain lines elsewhere. All on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from safereason import processes
from safereason.errors import redacted

Advance = Callable[[str], None]
SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def progress(what: str, total: int | None, done: int = 0) -> Iterator[Advance]:
    """Shows that `done` of `total` units are through; call the yielded function once a unit, with a short note.

    A `total` of None is one that is not known.
    """
    if not processes.is_main():
        yield lambda note: None
        return
    shown = _bar(what, total, done) if sys.stderr.isatty() else _lines(what, total, done)
    with shown as advance:
        yield advance


def say(line: str) -> None:
    """One line for the person watching, without secrets."""
    if processes.is_main():
        print(redacted(line), file=sys.stderr, flush=True)


@contextmanager
def _bar(what: str, total: int | None, done: int) -> Iterator[Advance]:
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
        yield lambda note: bar.update(task, advance=1, note=note)


@contextmanager
def _lines(what: str, total: int | None, done: int) -> Iterator[Advance]:
    count, last, start = done, time.monotonic(), time.monotonic()
    of = "" if total is None else f"/{total}"

    def advance(note: str) -> None:
        nonlocal count, last
        count += 1
        if count == total or time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(f"{what}: {count}{of} after {last - start:.0f} s{'  ' + note if note else ''}")

    yield advance


class Watch(Protocol):
    """What a search tells the person watching."""

    def step(self, what: str, number: int, value: float | None, spent: int, best: str) -> None:
        """Where the search of `what` is: its step, the value of the best so far, queries, and the best itself."""

    def end(self) -> None:
        """The search of it is over."""


@contextmanager
def searches(what: str, total: int, done: int, value: str) -> Iterator[Watch]:
    """Shows searches, one after the other: a live table on a terminal, plain lines elsewhere.

    Args:
        what: What is searched for.
        total: How many there are.
        done: How many of them were ended before.
        value: What the value of a step is called.
    """
    shown = _Table(what, total, done, value) if sys.stderr.isatty() else _SearchLines(what, total, done, value)
    with shown:
        yield shown


ROWS_SHOWN = 8
WIDTHS = ((10, 32), (4, 6), (5, 8), (7, 9), (10, None))
"""Least and most characters of a column: what, step, value, queries, the best so far."""
BEST_SHOWN = 60
"""Characters of the best that are shown, from its end."""


class _Table:
    def __init__(self, what: str, total: int, done: int, value: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._header = (what, "step", value, "queries", "best so far")
        self._total, self._done = total, done
        self._rows: list[tuple[str, ...]] = []
        self._is_under_way = False
        self._live = Live(console=Console(stderr=True), refresh_per_second=4, transient=False)

    def __enter__(self) -> "_Table":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def step(self, what: str, number: int, value: float | None, spent: int, best: str) -> None:
        if self._is_under_way:
            self._rows.pop()
        self._is_under_way = True
        self._rows.append((what, str(number), _number(value), str(spent), _end_of(best)))
        self._draw()

    def end(self) -> None:
        self._done, self._is_under_way = self._done + 1, False
        self._draw()

    def _draw(self) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{self._done} of {self._total} done", title_justify="left")
        for name, (least, most) in zip(self._header, WIDTHS, strict=True):
            table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=least, max_width=most)
        for row in self._rows[-ROWS_SHOWN:]:
            table.add_row(*map(Text, row))
        self._live.update(table)


class _SearchLines:
    def __init__(self, what: str, total: int, done: int, value: str) -> None:
        self._what, self._total, self._done, self._value = what, total, done, value
        self._last = time.monotonic()
        self._line = ""

    def __enter__(self) -> "_SearchLines":
        return self

    def __exit__(self, *error: object) -> None: ...

    def step(self, what: str, number: int, value: float | None, spent: int, best: str) -> None:
        self._line = f"{what}: step {number}, {self._value} {_number(value)}, {spent} queries"
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            say(self._line)

    def end(self) -> None:
        self._done += 1
        say(f"{self._what} {self._done}/{self._total}: {self._line}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _end_of(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= BEST_SHOWN else f"…{line[-BEST_SHOWN:]}"
