"""Counts of what was tried and what went wrong, and the table of them."""

import hashlib
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

MOST_KEPT = 4
"""Failing inputs of one kind that are kept."""


@dataclass
class Counts:
    """Of one part of the campaign; all but `tried` are to be 0."""

    tried: int = 0
    lost: int = 0
    """Records, requests or parts of a result that are missing after the program went on."""
    doubled: int = 0
    """Records that are there more than once, and work that was paid for twice."""
    different: int = 0
    """Records and files that an uninterrupted run has otherwise."""
    tracebacks: int = 0
    """Tracebacks and lines that say `unexpected`, on stdout or stderr."""
    wrong_codes: int = 0
    """Exit codes and HTTP statuses beside the contract, and commands that did not end."""
    partial_files: int = 0
    """Files that cannot be read under their final name, and left-overs after the program went on."""

    def faults(self) -> int:
        """Everything that went wrong."""
        return sum(getattr(self, column.name) for column in fields(self)) - self.tried


COLUMNS = tuple(column.name for column in fields(Counts))


@dataclass
class Tally:
    """The counts of one part, and the failing inputs, kept in a folder."""

    part: str
    keep: Path
    counts: Counts = field(default_factory=Counts)
    not_done: int = 0
    """Planned, but the time was up."""
    notes: list[str] = field(default_factory=list)
    _kinds: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tried(self, number: int = 1) -> None:
        """Counts what was tried; several threads may."""
        with self._lock:
            self.counts.tried += number

    def put_off(self, number: int = 1) -> None:
        """Counts what was planned and not done."""
        with self._lock:
            self.not_done += number

    def fault(self, column: str, kind: str, about: Any, files: Iterable[Path] = (), number: int = 1) -> None:
        """Counts a fault; the first few of a kind are kept with the files that led to it.

        Args:
            column: Of `Counts`.
            kind: A short text; faults with the same one are one kind.
            about: What was done and found, as JSON has it.
            files: Copied beside it.
            number: How many.
        """
        with self._lock:
            setattr(self.counts, column, getattr(self.counts, column) + number)
            count = self._kinds[kind] = self._kinds.get(kind, 0) + 1
        if count > MOST_KEPT:
            return
        name = hashlib.sha256(kind.encode()).hexdigest()[:8]
        folder = self.keep / self.part / f"{name}-{count}"
        folder.mkdir(parents=True, exist_ok=True)
        document = {"part": self.part, "column": column, "kind": kind, "about": about}
        (folder / "fault.json").write_text(json.dumps(document, indent=1, default=str))
        for file in files:
            if file.is_file():
                (folder / file.name).write_bytes(file.read_bytes())
        print(f"{self.part}: {column}: {kind}\n    kept in {folder}", flush=True)


def table(tallies: Iterable[Tally]) -> str:
    """The counts as a table of Markdown."""
    rows = [("part", *(column.replace("_", " ") for column in COLUMNS))]
    total = Counts()
    for tally in tallies:
        values = [getattr(tally.counts, column) for column in COLUMNS]
        for column, value in zip(COLUMNS, values, strict=True):
            setattr(total, column, getattr(total, column) + value)
        rows.append((tally.part, *map(str, values)))
    rows.append(("all", *(str(getattr(total, column)) for column in COLUMNS)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 1) + (":" if place else "-") for place, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
