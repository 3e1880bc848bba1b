"""Input of `guard classify --ray`: parquet files, cut into blocks of rows.

A block is the unit of work, of writing (`guard.parquet_output`) and of resuming. It consists of whole chunks of the
input (`guard.classify`), across the borders of files, so the samples do not depend on how the input is split up.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from safereason.errors import InputError, first_line
from safereason.guard.classify import CHUNK_ROWS
from safereason.guard.rows import FIELDS, Cells, InputRow, row_of

_MAGIC = 8
"""Bytes after a parquet footer: its length (4) and the name of the format (4)."""
AT_ONCE = 16
"""Files that are opened at the same time."""


@dataclass(frozen=True)
class Piece:
    """A range of rows of one file."""

    path: str
    start: int
    """Rows of the file in front of the piece."""
    rows: int


@dataclass(frozen=True)
class Block:
    """A range of rows of the input."""

    number: int
    start: int
    """Rows of the input in front of the block, a multiple of `CHUNK_ROWS`."""
    pieces: tuple[Piece, ...]
    contents: str = ""
    """Hash of the sizes and footers of its files."""

    @property
    def rows(self) -> int:
        """Rows of all pieces."""
        return sum(piece.rows for piece in self.pieces)


@dataclass(frozen=True)
class ParquetInput:
    """A parquet file, or a folder of them in the order of their names."""

    uri: str
    files: Mapping[str, int]
    """Number of rows by path on the input's file system."""
    ends: Mapping[str, str]
    """Hash by path of a file's size and footer. The footer holds sizes and extremes of all columns."""
    columns: Mapping[str, pa.DataType]
    """Arrow types by name of the columns that are read."""

    def names(self) -> dict[str, int]:
        """Number of rows by file name, independent of the folder's place; a single file is called `input`."""
        _, root = resolve_uri(self.uri)
        rows_by_name: dict[str, int] = {}
        for path, rows in self.files.items():
            name = path.removeprefix(root).lstrip("/")
            rows_by_name[name or "input"] = rows
        return rows_by_name

    def blocks(self, rows_a_block: int, limit: int | None = None) -> list[Block]:
        """The blocks of all rows, or of the first `limit` rows.

        Raises:
            InputError: `rows_a_block` is not a multiple of `CHUNK_ROWS`.
        """
        # Each chunk has a seed of its own. A block that ended inside a chunk would sample its rows otherwise.
        if rows_a_block % CHUNK_ROWS:
            raise InputError(
                f"--batch-rows {rows_a_block}: {CHUNK_ROWS} rows are classified together; "
                f"give a multiple of {CHUNK_ROWS}"
            )
        total = sum(self.files.values())
        if limit is not None:
            total = min(total, limit)
        blocks: list[Block] = []
        for number, start in enumerate(range(0, total, rows_a_block)):
            pieces = self._pieces(start, min(start + rows_a_block, total))
            blocks.append(Block(number, start, pieces, self._contents(pieces)))
        return blocks

    def _contents(self, pieces: Sequence[Piece]) -> str:
        # The footers of all its files, so that a changed file makes only its own blocks again.
        ends = "/".join(self.ends[piece.path] for piece in pieces)
        return hashlib.sha256(ends.encode()).hexdigest()[:32]

    def _pieces(self, start: int, end: int) -> tuple[Piece, ...]:
        """The pieces that make up the rows of the input from `start` up to `end`."""
        pieces: list[Piece] = []
        before = 0
        for path, rows in self.files.items():
            first = max(start - before, 0)
            last = min(end - before, rows)
            if first < last:
                pieces.append(Piece(path, first, last - first))
            before += rows
        return tuple(pieces)

    def read(self, block: Block, fields: Mapping[str, str]) -> Iterator[InputRow]:
        """The rows of a block, numbered from 1 over the whole input.

        Raises:
            InputError: A row holds no question; the message names the file.
        """
        system, _ = resolve_uri(self.uri)
        number = block.start
        for piece in block.pieces:
            cells_by_row = _read_piece(system, piece, list(self.columns))
            for row_in_file, cells in enumerate(cells_by_row, start=piece.start + 1):
                number += 1
                yield row_of(number, cells, fields, f"{piece.path}, row {row_in_file}")


def resolve_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or an address (`s3://…`, `gs://…`), and the path on it.

    Raises:
        InputError: There is no such file system.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).resolve())
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise InputError(f"{uri}: cannot be opened ({first_line(error)[:200]}); check the address") from error
    return system, path


def open_parquet_input(uri: str, fields: Mapping[str, str]) -> ParquetInput:
    """The files of an input and their numbers of rows; only footers and the first row are read.

    Args:
        uri: A file, a folder, or an address of either.
        fields: Columns by field, as `rows.fields_of` makes them.

    Raises:
        InputError: There are no files, one is not parquet, or their columns differ.
    """
    system, path = resolve_uri(uri)
    paths = _parquet_files(system, path, uri)
    # On an object store each footer is a round trip, so several are read at once.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        footers = list(pool.map(partial(_read_footer, system), paths))
    names = [fields.get(field, field) for field in FIELDS]
    first_schema = footers[0][0].schema.to_arrow_schema()
    columns = _typed_columns(first_schema, names)
    files: dict[str, int] = {}
    ends: dict[str, str] = {}
    for file, (footer, end) in zip(paths, footers, strict=True):
        own_columns = _typed_columns(footer.schema.to_arrow_schema(), names)
        if own_columns != columns:
            raise InputError(
                f"{file}: its columns ({_names_and_types(own_columns)}) are not those of {paths[0]} "
                f"({_names_and_types(columns)})"
            )
        files[file] = footer.num_rows
        ends[file] = end
    if not columns:
        known = ", ".join(first_schema.names)[:200]
        raise InputError(f"{uri}: has no `{names[0]}`, but {known}; --field FIELD=COLUMN names the columns")
    parquet_input = ParquetInput(uri if "://" in uri else path, files, ends, columns)
    for block in parquet_input.blocks(CHUNK_ROWS, limit=1):
        # A column that is missing or holds no text is an error before anything is loaded.
        next(parquet_input.read(block, fields))
    return parquet_input


def _parquet_files(system: fs.FileSystem, path: str, uri: str) -> list[str]:
    """The parquet files at a path, sorted by name.

    Raises:
        InputError: There are none, or the path cannot be read.
    """
    try:
        info = system.get_file_info(path)
        if info.type == fs.FileType.File:
            return [path]
        entries = system.get_file_info(fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise InputError(f"{uri}: cannot be read ({first_line(error)[:200]}); check the path") from error
    paths: list[str] = []
    for entry in entries:
        is_parquet = entry.type == fs.FileType.File and entry.path.endswith(".parquet")
        # The folder itself may lie below a hidden one.
        if is_parquet and not _is_hidden(entry.path.removeprefix(path)):
            paths.append(entry.path)
    if not paths:
        raise InputError(f"{uri}: holds no .parquet file; --ray reads a parquet file or a folder of them")
    return sorted(paths)


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _read_footer(system: fs.FileSystem, path: str) -> tuple[pq.FileMetaData, str]:
    """A file's footer, and the hash of the file's size and of the footer's bytes."""
    try:
        with system.open_input_file(path) as file:
            footer = pq.read_metadata(file)
            size = file.size()
            footer_bytes = footer.serialized_size + _MAGIC
            file.seek(max(0, size - footer_bytes))
            digest = hashlib.sha256(str(size).encode() + file.read(footer_bytes)).hexdigest()
            return footer, digest[:32]
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{path}: cannot be read as parquet ({first_line(error)[:200]}); mend it or take it away"
        ) from error


def _typed_columns(schema: pa.Schema, names: Sequence[str]) -> dict[str, pa.DataType]:
    """Arrow types of the named columns that a schema has, in the order of the names."""
    return {name: schema.field(name).type for name in names if name in schema.names}


def _names_and_types(columns: Mapping[str, pa.DataType]) -> str:
    """Columns with their types, for an error message."""
    return ", ".join(f"{name}: {kind}" for name, kind in columns.items()) or "none that is read"


def _read_piece(system: fs.FileSystem, piece: Piece, columns: list[str]) -> Iterator[Cells]:
    """The cells of each row of a piece, by column."""
    with system.open_input_file(piece.path) as file:
        table = pq.ParquetFile(file)
        groups, skip = _row_groups(table, piece)
        left = piece.rows
        # Small batches bound the memory: one row group can hold a million rows.
        for batch in table.iter_batches(1024, row_groups=groups, columns=columns):
            part = batch.slice(skip, left)
            skip = max(skip - len(batch), 0)
            left -= len(part)
            yield from part.to_pylist()
            if not left:
                return


def _row_groups(table: pq.ParquetFile, piece: Piece) -> tuple[list[int], int]:
    """The row groups that hold a piece, and the number of rows of the first group in front of the piece."""
    groups: list[int] = []
    skip = 0
    before = 0
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group).num_rows
        if before + size > piece.start and before < piece.start + piece.rows:
            if not groups:
                skip = piece.start - before
            groups.append(group)
        before += size
    return groups, skip
