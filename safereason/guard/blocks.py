"""Parquet for `guard classify --ray`: an input cut into blocks of rows, and a folder with a file of verdicts for each.

A block is what is worked on, written and resumed as one. It is whole chunks of the input (`guard.classify`), whichever
files they lie in, so that its draws do not depend on how the input is cut.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from safereason.errors import InputError
from safereason.guard.classify import CHUNK, Tally
from safereason.guard.rows import FIELDS, Row, row_of, whole
from safereason.runs.directory import OnExisting, differing_keys
from safereason.runs.records import Record

IDENTITY = "_guard.json"
"""The file that says by which guard verdicts were made, and of what; readers of parquet pass over its name."""
CONTENTS = "safereason_input"
"""Key in a part's metadata of the contents of its block."""
_MAGIC = 8
"""Bytes after a footer: its length and the format's name."""
AT_ONCE = 16
"""Files whose ends are read together."""


@dataclass(frozen=True)
class Piece:
    """Rows of one file that follow each other."""

    path: str
    start: int
    """Rows of the file before them."""
    rows: int


@dataclass(frozen=True)
class Block:
    """Rows of the input that follow each other."""

    number: int
    start: int
    """Rows of the input before them, a multiple of `CHUNK`."""
    pieces: tuple[Piece, ...]
    contents: str = ""
    """Hash of what is known of the contents of its files."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(piece.rows for piece in self.pieces)


@dataclass(frozen=True)
class Source:
    """A parquet file, or a folder of them in the order of their names."""

    uri: str
    files: Mapping[str, int]
    """Rows by path on the source's file system."""
    ends: Mapping[str, str]
    """A hash by path of a file's size and of its footer, which holds sizes and extremes of all its columns."""
    columns: Mapping[str, Any]
    """Arrow types of the columns that are read, by name."""

    def names(self) -> dict[str, int]:
        """Rows by name of the file, wherever the folder lies; a single file is `input`."""
        _, path = located(self.uri)
        return {name.removeprefix(path).lstrip("/") or "input": n for name, n in self.files.items()}

    def blocks(self, rows_a_block: int, limit: int | None = None) -> list[Block]:
        """All rows, or the first `limit` ones, cut into blocks.

        Raises:
            InputError: Blocks of so many rows are not made of whole chunks.
        """
        if rows_a_block % CHUNK:
            raise InputError(
                f"--batch-rows {rows_a_block}: {CHUNK} rows are asked together; give a multiple of {CHUNK}"
            )
        total = sum(self.files.values())
        total = total if limit is None else min(total, limit)
        starts = range(0, total, rows_a_block)
        cut = [self._pieces(start, min(start + rows_a_block, total)) for start in starts]
        return [Block(n, starts[n], pieces, self._contents(pieces)) for n, pieces in enumerate(cut)]

    def _contents(self, pieces: Sequence[Piece]) -> str:
        return hashlib.sha256("/".join(self.ends[piece.path] for piece in pieces).encode()).hexdigest()[:32]

    def _pieces(self, start: int, end: int) -> tuple[Piece, ...]:
        pieces, before = [], 0
        for path, rows in self.files.items():
            first, last = max(start - before, 0), min(end - before, rows)
            if first < last:
                pieces.append(Piece(path, first, last - first))
            before += rows
        return tuple(pieces)

    def read(self, block: Block, fields: Mapping[str, str]) -> Iterator[Row]:
        """The rows of a block, numbered from 1 over the whole input.

        Raises:
            InputError: A row is no question; the message says in which file.
        """
        system, _ = located(self.uri)
        number = block.start
        for piece in block.pieces:
            records = _records(system, piece, list(self.columns))
            for place, record in enumerate(records, start=piece.start + 1):
                number += 1
                yield row_of(number, record, fields, f"{piece.path}, row {place}")


def located(uri: str) -> tuple[Any, str]:
    """The file system of a path or an address (`s3://…`, `gs://…`), and the path on it.

    Raises:
        InputError: There is no such file system.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).resolve())
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise InputError(f"{uri}: cannot be opened ({_line(error)}); check the address") from error
    return system, path


def open_source(uri: str, fields: Mapping[str, str]) -> Source:
    """Finds the files of an input and how many rows they hold; their rows are not read.

    Args:
        uri: A file, a folder, or an address of either.
        fields: As `rows.fields_of` makes them.

    Raises:
        InputError: There are none, one is no parquet, or their columns differ.
    """
    system, path = located(uri)
    paths = _parquet_files(system, path, uri)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        footers = list(pool.map(partial(_footer, system), paths))
    wanted = [fields.get(field, field) for field in FIELDS]
    columns = [_columns(footer.schema.to_arrow_schema(), wanted) for footer, _ in footers]
    for other, found in zip(paths, columns, strict=True):
        if found != columns[0]:
            raise InputError(f"{other}: its columns ({_said(found)}) are not those of {paths[0]} ({_said(columns[0])})")
    files = {name: footer.num_rows for name, (footer, _) in zip(paths, footers, strict=True)}
    ends = {name: end for name, (_, end) in zip(paths, footers, strict=True)}
    source = Source(uri if "://" in uri else path, files, ends, columns[0])
    if not columns[0]:
        there = ", ".join(footers[0][0].schema.to_arrow_schema().names)[:200]
        raise InputError(f"{uri}: has no `{wanted[0]}`, but {there}; --field FIELD=COLUMN names the columns")
    for block in source.blocks(CHUNK, limit=1):
        next(source.read(block, fields))  # a column that is missing or no text is told before anything is loaded
    return source


def _parquet_files(system: Any, path: str, uri: str) -> list[str]:
    try:
        info = system.get_file_info(path)
        if info.type == fs.FileType.File:
            return [path]
        found = system.get_file_info(fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise InputError(f"{uri}: cannot be read ({_line(error)}); check the path") from error
    inside = [entry.path for entry in found if entry.type == fs.FileType.File and entry.path.endswith(".parquet")]
    paths = sorted(name for name in inside if not _is_hidden(name.removeprefix(path)))
    if not paths:
        raise InputError(f"{uri}: holds no .parquet file; --ray reads a parquet file or a folder of them")
    return paths


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _footer(system: Any, path: str) -> tuple[Any, str]:
    """What a file's footer says, and the hash of its size and of the footer as it is written."""
    try:
        with system.open_input_file(path) as file:
            footer, size = pq.read_metadata(file), file.size()
            written = footer.serialized_size + _MAGIC
            file.seek(max(0, size - written))
            return footer, hashlib.sha256(str(size).encode() + file.read(written)).hexdigest()[:32]
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read as parquet ({_line(error)}); mend it or take it away") from error


def _columns(schema: Any, wanted: Sequence[str]) -> dict[str, Any]:
    return {name: schema.field(name).type for name in wanted if name in schema.names}


def _said(columns: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in columns.items()) or "none that is read"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _records(system: Any, piece: Piece, columns: list[str]) -> Iterator[Record]:
    """The cells of a piece by column, from the row groups that hold it."""
    with system.open_input_file(piece.path) as file:
        table = pq.ParquetFile(file)
        groups: list[int] = []
        before = skip = 0
        for group in range(table.num_row_groups):
            size = table.metadata.row_group(group).num_rows
            if before + size > piece.start and before < piece.start + piece.rows:
                skip = skip if groups else piece.start - before
                groups.append(group)
            before += size
        left = piece.rows
        for batch in table.iter_batches(1024, row_groups=groups, columns=columns):
            part = batch.slice(skip, left)
            skip, left = max(skip - len(batch), 0), left - len(part)
            yield from part.to_pylist()
            if not left:
                return


@dataclass(frozen=True)
class Parts:
    """A folder with `part-NNNNNN.parquet` for each finished block."""

    uri: str
    identity: Mapping[str, Any]
    """All that the verdicts depend on, as JSON has it."""
    id_type: Any
    """Arrow type of the rows' ids; None where they have none."""

    def finished(self, blocks: Sequence[Block]) -> Tally | None:
        """The count of all rows, where all these blocks were written alike before."""
        system, path = located(self.uri)
        file = f"{path}/{IDENTITY}"
        if system.get_file_info(file).type != fs.FileType.File or self._differing(system, file):
            return None
        whole = Tally()
        for tally in self.tallies(blocks):
            if tally is None:
                return None
            whole.merge(tally)
        return whole

    def prepare(self, on_existing: OnExisting) -> None:
        """Makes the folder ready to go on, or empty.

        Raises:
            InputError: It is there and is not to be, or is of another guard or input.
        """
        system, path = located(self.uri)
        found = [entry.path for entry in system.get_file_info(fs.FileSelector(path, allow_not_found=True))]
        # What a process that was ended left in the middle of a write, perhaps of the first.
        asides = [name for name in found if name.rpartition("/")[2].startswith((".part-", f".{IDENTITY}."))]
        is_begun = len(asides) < len(found)
        if is_begun:
            self._check(system, f"{path}/{IDENTITY}", on_existing)
        for aside in asides:
            system.delete_file(aside)
        if is_begun and on_existing == "resume":
            return
        if is_begun:
            system.delete_dir_contents(path)
        system.create_dir(path)
        self._put(IDENTITY, json.dumps(self.identity, indent=2).encode())

    def _check(self, system: Any, file: str, on_existing: OnExisting) -> None:
        if on_existing == "refuse":
            raise InputError(f"{self.uri}: exists already; pass --resume to go on or --overwrite to start anew")
        if system.get_file_info(file).type != fs.FileType.File:
            raise InputError(f"{self.uri}: has no {IDENTITY}, so it is not of `--ray`; name another --out")
        differing = self._differing(system, file)
        if differing and on_existing == "resume":
            raise InputError(
                f"{self.uri}: was written otherwise ({', '.join(differing)}); use --overwrite or another --out"
            )

    def _differing(self, system: Any, file: str) -> list[str]:
        """The keys at which what is there is of another identity."""
        with system.open_input_stream(file) as stream:
            content = stream.read()
        try:
            before = json.loads(content)
        except ValueError as error:
            raise InputError(f"{self.uri}: its {IDENTITY} is not JSON ({error}); name another --out") from error
        return differing_keys(before, json.loads(json.dumps(self.identity)))

    def write(self, block: Block, records: Iterable[Record]) -> None:
        """Writes the records of a block as one file, whole or not at all."""
        rows = [{key: _encodable(value) for key, value in record.items()} for record in records]
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pylist(rows, schema=self._schema())
        pq.write_table(table.replace_schema_metadata({CONTENTS: block.contents}), sink)
        self._put(_name(block), sink.getvalue())

    def tally(self, block: Block) -> Tally | None:
        """The count of a block's rows, from its file; None where it is not finished, or of files that changed since."""
        system, path = located(self.uri)
        try:
            with system.open_input_file(f"{path}/{_name(block)}") as file:
                table = pq.read_table(file, columns=["row", "label", "failed", "reason"])
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        if (table.schema.metadata or {}).get(CONTENTS.encode()) != block.contents.encode():
            return None
        tally = Tally()
        for record in table.to_pylist():
            tally.add(record)
        return tally if tally.rows == block.rows else None

    def tallies(self, blocks: Sequence[Block]) -> list[Tally | None]:
        """`tally` of each."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self.tally, blocks))

    def _put(self, name: str, content: Any) -> None:
        """Aside, then renamed: a worker that is killed, or two at one block, leave no half file under the name."""
        system, path = located(self.uri)
        aside = f"{path}/.{name}.{uuid4().hex}"
        with system.open_output_stream(aside) as stream:
            stream.write(content)
        system.move(aside, f"{path}/{name}")

    def _schema(self) -> Any:
        """The keys of `classify.record_of`; one that a row does not have is null."""
        text = pa.string()
        ids = [] if self.id_type is None else [("id", self.id_type)]
        return pa.schema(
            [
                ("row", pa.int64()),
                *ids,
                ("label", text),
                ("score", pa.float64()),
                ("categories", pa.list_(text)),
                ("reasoning", text),
                ("unparsed", pa.bool_()),
                ("reason", text),
                ("text", text),
                ("failed", pa.bool_()),
                ("votes", pa.list_(text)),
            ]
        )


def _name(block: Block) -> str:
    return f"part-{block.number:06d}.parquet"


def _encodable(value: Any) -> Any:
    return whole(value) if isinstance(value, str) else value
