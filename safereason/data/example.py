"""One prompt to train or test on, and its form on disk (JSONL and parquet hold the same columns)."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from safereason.errors import InputError
from safereason.runs.records import read_records

Kind = Literal["harmful", "harmless", "ambiguous"]
Label = Literal["safe", "unsafe"]


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

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("`prompt` is empty")
        if self.kind not in get_args(Kind):
            raise ValueError(f"`kind` is {self.kind!r}; one of {', '.join(get_args(Kind))} is expected")
        if self.label not in (None, *get_args(Label)):
            raise ValueError(f"`label` is {self.label!r}; `safe`, `unsafe` or null is expected")

    @property
    def categories(self) -> tuple[str, ...]:
        """Each of its categories, in the source's order."""
        return tuple(self.category.split("; ")) if self.category else ()


_COLUMNS = tuple(f.name for f in fields(Example))


def from_row(row: dict[str, Any], where: str) -> Example:
    """Checks one row and makes an example of it.

    Raises:
        InputError: A column is missing, unknown or of the wrong type; the message begins with `where`.
    """
    unknown = row.keys() - set(_COLUMNS)
    missing = {"id", "prompt", "kind", "source"} - row.keys()
    if unknown or missing:
        problem = f"unknown column {sorted(unknown)[0]!r}" if unknown else f"no column {sorted(missing)[0]!r}"
        raise InputError(f"{where}: {problem}; an example has {', '.join(_COLUMNS)}")
    wrong = [
        name
        for name, value in row.items()
        if not (isinstance(value, str) or (value is None and name not in ("id", "prompt", "kind", "source")))
    ]
    if wrong:
        raise InputError(f"{where}: `{wrong[0]}` is {type(row[wrong[0]]).__name__}; text is expected")
    try:
        return Example(**row)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def read_examples(path: Path) -> list[Example]:
    """Reads a `.jsonl` or `.parquet` file of examples.

    Raises:
        InputError: The file is missing or one of its rows is no example; the message names the row.
    """
    if path.suffix == ".parquet":
        rows: Iterable[dict[str, Any]] = read_parquet(path)
    elif path.suffix == ".jsonl":
        rows = read_records(path)
    else:
        raise InputError(f"{path}: examples are read from .jsonl or .parquet files")
    return [from_row(row, f"{path}: row {number}") for number, row in enumerate(rows, start=1)]


def write_parquet(path: Path, examples: Sequence[Example]) -> None:
    """Writes examples as parquet, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in _COLUMNS])
    aside = path.with_name(f".{path.name}.part")
    pq.write_table(pa.Table.from_pylist([asdict(e) for e in examples], schema=schema), aside)
    aside.replace(path)


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """The rows of a parquet file.

    Raises:
        InputError: The file is missing or no parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a parquet file ({error})") from error
    return rows
