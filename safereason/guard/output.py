"""The output file of `guard classify --out`, and the file beside it that says what its verdicts depend on.

A second call with the same settings and input prints the finished result, or resumes. A call with other settings or
another input is refused, because one file must not mix verdicts of both.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypedDict

from safereason.errors import InputError
from safereason.files import json_type
from safereason.guard.classify import StatusCounts
from safereason.guard.rows import InputRow, count_lines
from safereason.runs.directory import OnExisting, differing_keys
from safereason.runs.lock import locked
from safereason.runs.records import Record, RecordLog, cut_torn_line, read_json, read_records, write_json, write_records

INPUT = "input"
"""Key in the identity file of the rows that were read so far."""
FINISHED = "finished"
"""Key in the identity file that is there once the input was read to its end, or to the limit."""


class RowsRead(TypedDict):
    """How many rows were read, and their hash."""

    rows: int
    sha256: str


class RowHash:
    """A running hash of rows: of their ids and texts, independent of the file or pipe that they come from."""

    def __init__(self) -> None:
        self.rows = 0
        self._hash = hashlib.sha256()

    def add(self, row: InputRow) -> None:
        """Adds a row to the count and the hash."""
        # JSON, because plain text could not tell where one field ends and the next begins.
        text = json.dumps([row.id, row.question.prompt, row.question.response])
        self._hash.update(f"{text}\n".encode())
        self.rows += 1

    def document(self) -> RowsRead:
        """The number of rows so far and their hash, as JSON."""
        return {"rows": self.rows, "sha256": self._hash.hexdigest()[:32]}


def _hash_rows(rows: Iterable[InputRow]) -> RowsRead:
    hashed = RowHash()
    for row in rows:
        hashed.add(row)
    return hashed.document()


@dataclass(frozen=True)
class VerdictFile:
    """A file of records, with its identity in `FILE.meta.json` beside it: the guard, the settings and the input."""

    path: Path
    identity: dict[str, object]
    """Everything but the input that the records depend on, as JSON."""
    on_existing: OnExisting = "refuse"

    @property
    def meta(self) -> Path:
        """The path of the identity file."""
        return self.path.with_name(f"{self.path.name}.meta.json")

    def locked(self) -> AbstractContextManager[None]:
        """A lock against other processes, to be held from `check` until the last write."""
        return locked(self.path)

    def finished(self, rows: Iterator[InputRow], limit: int | None) -> StatusCounts | None:
        """The counts of a finished file; None if anything is left to do.

        A file is finished if it holds a record of every row of this input, or of its first `limit` rows, written with
        this identity. On a resume, rows that failed are left to do.
        """
        if self.on_existing == "overwrite" or not (self.path.is_file() and self.meta.is_file()):
            return None
        saved = self._read_meta()
        tally = StatusCounts()
        for record in self.records():
            tally.add(record)
        if saved.get(FINISHED) != {"rows": tally.rows, "limit": limit} or self._differing_keys(saved):
            return None
        if self.on_existing == "resume" and tally.counts["failed"]:
            return None
        # The hash comes last, because it reads the whole input.
        if _hash_rows(islice(rows, tally.rows)) != saved.get(INPUT):
            return None
        # Rows may have been added to the end of the input since. Under a limit they do not count.
        if limit is None and next(rows, None) is not None:
            return None
        # A crash can leave bytes behind the last record, as a file system fills a block with zeros.
        cut_torn_line(self.path)
        return tally

    def check_input(self, rows: Iterator[InputRow]) -> None:
        """Refuses to resume with an input whose first rows are not those that were read before.

        Raises:
            InputError: They are not.
        """
        if self.on_existing != "resume":
            return
        before = self._rows_read_before()
        if before is not None and _hash_rows(islice(rows, before["rows"])) != before:
            raise self._changed_input(before["rows"])

    def noting(self) -> Callable[[Sequence[InputRow]], None]:
        """A callback that saves the hash of all rows so far with each chunk, for the check of a later resume.

        It also refuses rows that differ from those read before. `check_input` cannot do that for a pipe, which can be
        read only once.
        """
        before = self._rows_read_before()
        read = RowHash()

        def note(chunk: Sequence[InputRow]) -> None:
            for row in chunk:
                read.add(row)
                # The hash is a running one, so it can be compared only after exactly as many rows as before.
                if before is not None and read.rows == before["rows"] and read.document() != before:
                    raise self._changed_input(read.rows)
            if before is None or read.rows > before["rows"]:
                write_json(self.meta, {**self.identity, INPUT: read.document()})

        return note

    def check(self) -> None:
        """Refuses everything that `open` would refuse, before a model is loaded.

        Raises:
            InputError: The file exists and must not, or it belongs to another guard or other settings.
        """
        if self.path.is_dir():
            raise InputError(f"{self.path}: is a directory; name a file")
        if not self.path.exists() or self.on_existing == "overwrite":
            return
        # The identity is compared only on a resume. Without one, any existing file is refused.
        if self.on_existing == "refuse":
            raise InputError(f"{self.path}: exists already; pass --resume to go on or --overwrite to start anew")
        if not self.meta.exists():
            raise InputError(f"{self.path}: has no {self.meta.name}, so it cannot be resumed; name another --out")
        differing = self._differing_keys(self._read_meta())
        if differing:
            raise InputError(
                f"{self.path}: was written otherwise ({', '.join(differing)}); use --overwrite or another --out"
            )

    def open(self) -> RecordLog:
        """The log, opened for appending after its last whole record; empty if it is to be overwritten."""
        self.check()
        if self.on_existing == "overwrite":
            # The old records go before the new identity comes, so that the two are never mixed.
            self.path.unlink(missing_ok=True)
        # The identity is written before the first record, so that no record is ever without one.
        if not self.path.exists():
            write_json(self.meta, self.identity)
        return RecordLog(self.path)

    def records(self) -> Iterator[Record]:
        """The records in the file."""
        return read_records(self.path)

    def count(self) -> int:
        """The number of records in the file."""
        return count_lines(self.path)

    def replace(self, records: Mapping[int, Record]) -> None:
        """Replaces the records with the same row numbers, all of them in one write."""
        if not records:
            return
        # A new file takes the place of the old one at the end, so a kill leaves the old records whole.
        write_records(self.path, (records.get(record["row"], record) for record in self.records()))

    def finish(self, rows: int, limit: int | None) -> None:
        """Saves that the input was read to its end, or to the limit."""
        write_json(self.meta, {**self._read_meta(), FINISHED: {"rows": rows, "limit": limit}})

    def _read_meta(self) -> dict[str, object]:
        saved = read_json(self.meta)
        if not isinstance(saved, dict):
            raise InputError(
                f"{self.meta}: is damaged: {json_type(saved)} in place of an object; use --overwrite or another --out"
            )
        return saved

    def _rows_read_before(self) -> RowsRead | None:
        """The rows that an earlier call read; None without an earlier call that saved them."""
        if not self.path.is_file() or not self.meta.is_file():
            return None
        saved = self._read_meta().get(INPUT)
        if not isinstance(saved, dict) or not isinstance(saved.get("rows"), int):
            return None
        return {"rows": saved["rows"], "sha256": str(saved.get("sha256"))}

    def _changed_input(self, rows: int) -> InputError:
        return InputError(
            f"{self.path}: the input changed since: its first {rows} rows are not those that were judged; "
            "use --overwrite or another --out"
        )

    def _differing_keys(self, saved: dict[str, object]) -> list[str]:
        """The keys at which the saved identity differs from this one."""
        identity = {key: value for key, value in saved.items() if key not in (INPUT, FINISHED)}
        return differing_keys(identity, self.identity)
