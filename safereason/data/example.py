"""One prompt to train or test on, and its form on disk (JSONL and parquet hold the same columns)."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from safereason.errors import InputError
from safereason.files import LONGEST_ROW, json_type
from safereason.runs.asides import aside_of
from safereason.runs.directory import rows_of

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

Kind = Literal["harmful", "harmless", "ambiguous"]
Label = Literal["safe", "unsafe"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LABELS: tuple[Label, ...] = get_args(Label)


@dataclass(frozen=True)
class Example:
    """One prompt."""

    id: str
    """Unique within its source: `source/…`."""
    prompt: str
    """What the user says."""
    kind: Kind
    """What the prompt is, by its source."""
    source: str
    """Name of the data source."""
    category: str | None = None
    """The source's own category; several are joined with `; `."""
    reasoning: str | None = None
    """A teacher's reasoning, for SFT."""
    answer: str | None = None
    """A teacher's answer, for SFT."""
    response: str | None = None
    """An agent's response to be judged, for the guard."""
    label: Label | None = None
    """Whether the prompt, or the response where there is one, is unsafe; for the guard."""
    target: str | None = None
    """What an attack wants the answer to begin with."""
    context: str | None = None
    """A text that the prompt opens with and its request is about; None where the request is the whole prompt."""

    def __post_init__(self) -> None:
        if not self.prompt or self.prompt.isspace():
            raise ValueError("`prompt` is empty")
        if self.kind not in KINDS:
            raise ValueError(f"`kind` is {self.kind!r}; one of {', '.join(KINDS)} is expected")
        if self.label is not None and self.label not in LABELS:
            raise ValueError(f"`label` is {self.label!r}; `safe`, `unsafe` or null is expected")

    @property
    def request(self) -> str:
        """What the prompt asks for, without the text that it is about."""
        return self.prompt if self.context is None else self.prompt.removeprefix(opening(self.context))

    @property
    def categories(self) -> tuple[str, ...]:
        """Each of its categories, in the source's order."""
        return tuple(self.category.split("; ")) if self.category else ()


def opening(context: str) -> str:
    """What stands before a request that is about a text, as HarmBench sets them apart."""
    return f"{context}\n\n---\n\n"


COLUMNS = tuple(f.name for f in fields(Example))
_ALL = frozenset(COLUMNS)
_NEEDED = frozenset(("id", "prompt", "kind", "source"))
_HALF = re.compile("[\ud800-\udfff]")
_BATCH = 1024
"""Rows of a parquet file that are read at a time."""
_UNPACKED, _RATIO = 1 << 28, 100
"""Bytes that a column of a row group may always unpack to, and to how many times its size it may above that."""
_GROUP = 8192
"""Rows of a row group that is written."""


def from_row(row: dict[str, Any], where: str) -> Example:
    """Checks one row and makes an example of it.

    Raises:
        InputError: A column is missing, unknown or of the wrong type; the message begins with `where`.
    """
    columns = row.keys()
    if not (columns <= _ALL and columns >= _NEEDED):
        unknown = sorted(map(str, columns - _ALL))
        problem = f"unknown column {unknown[0]!r}" if unknown else f"no column {min(_NEEDED - columns)!r}"
        raise InputError(f"{where}: {problem}; an example has {', '.join(COLUMNS)}")
    for name, value in row.items():
        if not isinstance(value, str) and (value is not None or name in _NEEDED):
            raise InputError(f"{where}: `{name}` is {json_type(value)}; text is expected")
    if (half := next((name for name, value in row.items() if value and not is_unicode(value)), None)) is not None:
        raise InputError(f"{where}: `{half}` holds half of a surrogate pair; no file can hold it")
    try:
        return Example(**row)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def is_unicode(text: str) -> bool:
    """Whether a text can be written: half of a surrogate pair, which JSON may hold, cannot."""
    return text.isascii() or not _HALF.search(text)


def stream_examples(path: Path) -> Iterator[Example]:
    """The examples of a `.jsonl` or `.parquet` file, one by one: it may be larger than memory.

    Raises:
        InputError: The file is missing or one of its rows is no example; the message names the row.
    """
    readers = {".jsonl": rows_of, ".parquet": stream_parquet}
    if path.suffix not in readers:
        raise InputError(f"{path}: examples are read from .jsonl or .parquet files")
    name = str(path)
    for number, row in enumerate(readers[path.suffix](path), start=1):
        yield from_row(row, f"{name}: row {number}")


def read_examples(path: Path) -> list[Example]:
    """All that `stream_examples` gives."""
    return list(stream_examples(path))


def write_parquet(path: Path, examples: Iterable[Example]) -> None:
    """Writes examples as parquet, whole or not at all; they may be more than memory holds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    aside = aside_of(path)
    rows = iter(examples)
    try:
        with pq.ParquetWriter(aside, schema) as writer:
            while group := list(islice(rows, _GROUP)):
                writer.write_table(pa.table([[getattr(e, n) for e in group] for n in COLUMNS], schema=schema))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def stream_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, one by one.

    Raises:
        InputError: The file is missing or no parquet file.
    """
    try:
        yield from parquet_rows(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except ValueError as error:  # those of pyarrow, and text that is no UTF-8
        raise InputError(f"{path}: not a parquet file ({error})") from error


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """All that `stream_parquet` gives."""
    return list(stream_parquet(path))


def parquet_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, of all its columns or those named; errors are pyarrow's.

    Raises:
        ValueError: A column that is named is not there.
    """
    import pyarrow.parquet as pq

    # A buffer, so that a row group is not read whole; pyarrow leaves it unused where it buffers ahead.
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
    """Refuses a file before any of it is unpacked, where what it says of itself could only fill the memory.

    Raises:
        ValueError: A column unpacks to a hundred times its size, or its mean cell is longer than a row may be.
    """
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group)
        for number in range(rows.num_columns):
            column = rows.column(number)
            size = column.total_uncompressed_size
            if size > max(_UNPACKED, _RATIO * column.total_compressed_size) or size > LONGEST_ROW * (rows.num_rows + 1):
                raise ValueError(f"column `{column.path_in_schema}` unpacks to {size >> 20} MiB in one row group")


def longest_row(batch: "RecordBatch") -> int:
    """Bytes of the longest row of a batch, or of the whole batch where that is less than a row may have."""
    if batch.nbytes <= LONGEST_ROW:
        return int(batch.nbytes)
    return max(int(batch.slice(place, 1).nbytes) for place in range(batch.num_rows))
