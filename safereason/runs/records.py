"""Append-only JSONL records and files that are whole or absent."""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeAlias

from safereason import processes
from safereason.errors import InputError
from safereason.files import JSONRow, from_json, json_type
from safereason.files import read_json as read_json
from safereason.runs.asides import aside_of

Record: TypeAlias = dict[str, Any]
"""One JSON object of a run: a line of a log, the manifest or the metrics. Its reader knows the types of its keys."""
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BLOCK = 1 << 16


class RecordLog:
    """An append-only JSONL file that survives `kill -9`: a torn last line is cut off when it is opened again.

    Each record reaches the operating system before `append` returns, and the disk when the log is closed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(path)
        # In append mode a record goes to the end, even if another handle has cut the file meanwhile.
        self._file = path.open("ab")

    def append(self, record: Record) -> None:
        """Writes one record as one line."""
        self.extend([record])

    def extend(self, records: Iterable[Record]) -> None:
        """Writes records that belong together by one call of the system, so that a kill leaves all of them or none."""
        lines = b"".join(map(line_of, records))
        with self._named():
            self._file.write(lines)
            self._file.flush()

    def close(self) -> None:
        """Syncs and closes the file."""
        if not self._file.closed:
            with self._named():
                # Once a log and not once a record: a sync is slow, and a kill loses nothing that was flushed.
                os.fsync(self._file.fileno())
                self._file.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Names the file in an error: a full disk does not say whose file it was."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise

    def __enter__(self) -> "RecordLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Unwritten(RecordLog):
    """The log of a process that leaves writing to the first one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Record) -> None:
        """Writes nothing."""

    def extend(self, records: Iterable[Record]) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Does nothing."""


def line_of(record: Record) -> bytes:
    r"""One record as a line of JSONL, in UTF-8.

    Characters that end a line for some readers, control a terminal or are half a surrogate pair become `\uXXXX`.
    """
    return _escaped(json.dumps(record, ensure_ascii=False)).encode() + b"\n"


def _escaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def read_records(path: Path) -> Iterator[JSONRow]:
    """Yields the records of a log that this package wrote; a torn last line is passed over, as a kill leaves one.

    A person's own file is read by `files.json_rows`, which refuses one.

    Raises:
        InputError: The file is missing, or a line that is not the last is no JSON object.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    with file:
        for number, line in enumerate(file, start=1):
            # A record that only lacks its newline is whole: the kill came between two writes.
            if not line.endswith(b"\n") and not _is_record(line):
                return
            if not line.strip():
                continue
            try:
                record = from_json(line)
            except ValueError as error:
                raise InputError(f"{path}:{number}: not JSON ({error}); mend or delete the line") from error
            if not isinstance(record, dict):
                raise InputError(f"{path}:{number}: a JSON object is expected, not {json_type(record)}")
            yield JSONRow(record, f"{path}:{number}")


def read_record(path: Path) -> Record:
    """A record that is a file of its own, as this package wrote it.

    Raises:
        InputError: The file is missing, is not JSON, or holds no object.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise InputError(f"{path}: an object is expected, not {json_type(document)}; make it anew")
    return document


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole: aside, synced, then renamed into place."""
    _write(path, (content,))


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes a JSONL file whole, one record after the other, so that it may be larger than memory."""
    _write(path, map(line_of, records))


def _write(path: Path, content: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    try:
        with aside.open("wb") as file:
            file.writelines(content)
            file.flush()
            # Without the sync a power cut after the rename may leave an empty file under the final name.
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, document: object) -> None:
    """Writes one JSON document whole."""
    write_text(path, _escaped(json.dumps(document, indent=2, ensure_ascii=False)) + "\n")


def finite_or_none(value: float) -> float | None:
    """The value, or None in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(from_json(line), dict)
    except ValueError:
        return False


def cut_torn_line(path: Path) -> None:
    """Ends the file after its last whole line; a whole record that only lacks its newline is given one."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        start = _last_line(file)
        file.seek(start)
        torn = file.read()
        if not torn:
            return
        if _is_record(torn):
            file.write(b"\n")
        else:
            file.truncate(start)


def _last_line(file: BinaryIO) -> int:
    """The position after the last newline; read from the end, for a log may be larger than memory."""
    position = file.seek(0, os.SEEK_END)
    while position > 0:
        size = min(_BLOCK, position)
        position = file.seek(position - size)
        newline = file.read(size).rfind(b"\n")
        if newline >= 0:
            return position + newline + 1
    return 0


def sort_records(path: Path, position: Callable[[Record], int]) -> None:
    """Puts the records of a log that is closed in the order of their positions; a log in order stays as it is."""
    records: list[Record] = list(read_records(path))
    in_order = sorted(records, key=position)
    if in_order != records:
        write_records(path, in_order)


def keep_records(path: Path, keep: Callable[[Record], bool]) -> None:
    """Drops the records that `keep` refuses, such as those past the checkpoint a run resumes from.

    One record is held at a time: a log may be larger than memory.
    """
    if processes.is_main() and path.exists():
        write_records(path, filter(keep, read_records(path)))
