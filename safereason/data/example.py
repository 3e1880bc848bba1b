"""The example, one prompt to train or test on, and its files: JSONL and parquet with the same columns."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from safereason.errors import InputError
from safereason.files import LONE_SURROGATE, LONGEST_ROW, json_type
from safereason.runs.asides import aside_of
from safereason.runs.directory import rows_of
from safereason.text.verdict import Label

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

PromptKind = Literal["harmful", "harmless", "ambiguous"]
# Mixes draw in the order of these two, so a change of order would change every draw.
KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
LABELS: tuple[Label, ...] = get_args(Label)


@dataclass(frozen=True)
class Example:
    """One prompt of a source, with its kind and perhaps a label, a response, or a trace to learn from."""

    id: str
    """Unique within its source: `source/…`."""
    prompt: str
    """Text of the user's message."""
    kind: PromptKind
    """The source's judgment of the prompt."""
    source: str
    """Name of the data source."""
    category: str | None = None
    """The source's own category; several are joined with `; `."""
    reasoning: str | None = None
    """A teacher's reasoning, for SFT."""
    answer: str | None = None
    """A teacher's answer, for SFT."""
    response: str | None = None
    """An assistant's response that a guard classifies."""
    label: Label | None = None
    """Whether the response is unsafe, or the prompt where there is no response; for guards."""
    target: str | None = None
    """The beginning of an answer that an attack optimises for."""
    context: str | None = None
    """A text at the start of the prompt that the request refers to; None where the request is the whole prompt."""

    def __post_init__(self) -> None:
        if not self.prompt or self.prompt.isspace():
            raise ValueError("`prompt` is empty")
        if self.kind not in KINDS:
            raise ValueError(f"`kind` is {self.kind!r}; one of {', '.join(KINDS)} is expected")
        if self.label is not None and self.label not in LABELS:
            raise ValueError(f"`label` is {self.label!r}; `safe`, `unsafe` or null is expected")

    @property
    def request(self) -> str:
        """The prompt without its context."""
        if self.context is None:
            return self.prompt
        return self.prompt.removeprefix(context_opening(self.context))

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories one by one, in the source's order."""
        if not self.category:
            return ()
        return tuple(self.category.split("; "))


def context_opening(context: str) -> str:
    """The context and the separator that HarmBench puts between it and the request."""
    return f"{context}\n\n---\n\n"


RawRow = dict[str, object]
"""One row of a file, by column name, before it is checked."""

# The content hashes of built data depend on these names and on their order.
COLUMNS = tuple(f.name for f in fields(Example))
_COLUMN_NAMES = frozenset(COLUMNS)
_REQUIRED = frozenset(("id", "prompt", "kind", "source"))
_BATCH = 1024
"""Rows that are decoded from a parquet file at a time."""
# Text compresses well, so a small column may unpack to any ratio. Only large ones are suspicious.
_ALWAYS_ALLOWED_BYTES = 1 << 28
"""Unpacked bytes that a column of a row group may always have."""
_LARGEST_RATIO = 100
"""Unpacked bytes per packed byte that a larger column may have."""
_ROW_GROUP = 8192
"""Rows of each row group that is written."""


def from_row(row: RawRow, where: str) -> Example:
    """Checks one row and turns it into an example.

    Raises:
        InputError: A column is missing, unknown or of the wrong type; the message begins with `where`.
    """
    # Millions of rows pass here, so the common case costs two set comparisons and one pass over the values.
    names = row.keys()
    if not (names <= _COLUMN_NAMES and names >= _REQUIRED):
        raise InputError(f"{where}: {_column_problem(row)}; an example has {', '.join(COLUMNS)}")
    for name, value in row.items():
        if isinstance(value, str):
            if not is_unicode(value):
                raise InputError(f"{where}: `{name}` holds half of a surrogate pair; no file can hold it")
        elif value is not None or name in _REQUIRED:
            raise InputError(f"{where}: `{name}` is {json_type(value)}; text is expected")
    try:
        return Example(**row)  # type: ignore[arg-type] # they were checked above
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _column_problem(row: RawRow) -> str:
    """The first unknown column by name, or else the first missing one."""
    unknown = sorted(map(str, row.keys() - _COLUMN_NAMES))
    if unknown:
        return f"unknown column {unknown[0]!r}"
    return f"no column {min(_REQUIRED - row.keys())!r}"


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8, which half of a surrogate pair cannot."""
    return text.isascii() or not LONE_SURROGATE.search(text)


def stream_examples(path: Path) -> Iterator[Example]:
    """Examples of a `.jsonl` or `.parquet` file, one by one, so the file may be larger than memory.

    Raises:
        InputError: The file is missing, or a row is not an example; the message names the row.
    """
    readers = {".jsonl": rows_of, ".parquet": stream_parquet}
    if path.suffix not in readers:
        raise InputError(f"{path}: examples are read from .jsonl or .parquet files")
    name = str(path)
    for number, row in enumerate(readers[path.suffix](path), start=1):
        yield from_row(row, f"{name}: row {number}")


def read_examples(path: Path) -> list[Example]:
    """All examples of `stream_examples` in a list."""
    return list(stream_examples(path))


def write_parquet(path: Path, examples: Iterable[Example]) -> None:
    """Writes a parquet file of examples in row groups, so they may be more than memory holds.

    The file appears under its name only when it is complete.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    aside = aside_of(path)
    remaining = iter(examples)
    try:
        with pq.ParquetWriter(aside, schema) as writer:
            while group := list(islice(remaining, _ROW_GROUP)):
                columns = []
                for name in COLUMNS:
                    columns.append([getattr(example, name) for example in group])
                writer.write_table(pa.table(columns, schema=schema))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def stream_parquet(path: Path) -> Iterator[RawRow]:
    """Rows of a parquet file, one by one.

    Raises:
        InputError: The file is missing or is not a parquet file.
    """
    try:
        yield from parquet_rows(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except ValueError as error:
        # pyarrow's own errors are ValueErrors, and so is text that is not UTF-8.
        raise InputError(f"{path}: not a parquet file ({error})") from error


def read_parquet(path: Path) -> list[RawRow]:
    """All rows of `stream_parquet` in a list."""
    return list(stream_parquet(path))


def parquet_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[RawRow]:
    """Rows of a parquet file, one by one, with pyarrow's own errors.

    Args:
        path: The file.
        columns: Names of the columns to read; None reads all of them.

    Raises:
        ValueError: A named column does not exist, or the file would fill the memory.
    """
    import pyarrow.parquet as pq

    # With a buffer pyarrow reads a row group in pieces. It ignores the buffer when it may read ahead.
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        for name in columns or ():
            if name not in file.schema_arrow.names:
                raise ValueError(f"no column `{name}`, only {', '.join(file.schema_arrow.names)}")
        refuse_bomb(file)
        for batch in file.iter_batches(_BATCH, columns=columns):
            if longest_row(batch) > LONGEST_ROW:
                raise ValueError(f"a row is longer than {LONGEST_ROW >> 20} MiB")
            yield from batch.to_pylist()


def refuse_bomb(file: "ParquetFile") -> None:
    """Refuses a decompression bomb by the sizes in its metadata, before anything is unpacked.

    Raises:
        ValueError: A column unpacks to a hundred times its size, or its mean cell is longer than a row may be.
    """
    for group in range(file.metadata.num_row_groups):
        row_group = file.metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            size = column.total_uncompressed_size
            allowed = max(_ALWAYS_ALLOWED_BYTES, _LARGEST_RATIO * column.total_compressed_size)
            # One row more than there are, because the pages of a group without rows still have headers.
            if size > allowed or size > LONGEST_ROW * (row_group.num_rows + 1):
                raise ValueError(f"column `{column.path_in_schema}` unpacks to {size >> 20} MiB in one row group")


def longest_row(batch: "RecordBatch") -> int:
    """Bytes of the longest row of a batch, or an upper bound where the whole batch is below the limit of a row."""
    # Slicing every batch row by row would cost more than decoding it.
    if batch.nbytes <= LONGEST_ROW:
        return int(batch.nbytes)
    return max(int(batch.slice(row, 1).nbytes) for row in range(batch.num_rows))
