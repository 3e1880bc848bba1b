"""What a long stage says while it works: a progress bar on a terminal, plain lines elsewhere. All on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[str], None]
SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def progress(what: str, total: int | None, done: int = 0) -> Iterator[Advance]:
    """Shows that `done` of `total` units are through; call the yielded function once a unit, with a short note.

    A `total` of None is one that is not known.
    """
    shown = _bar(what, total, done) if sys.stderr.isatty() else _lines(what, total, done)
    with shown as advance:
        yield advance


def say(line: str) -> None:
    """One line for the person watching."""
    print(line, file=sys.stderr, flush=True)


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

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
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
