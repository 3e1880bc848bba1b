"""Sources from your own data, read as its YAML description says (`description.py` checks the description itself)."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from safereason.data.example import Example, PromptKind, is_unicode
from safereason.data.fetch import HubFile, fetch
from safereason.data.sources.base import (
    Source,
    SourceRow,
    Split,
    join_categories,
    read_rows,
    traces_of,
    with_unique_ids,
)
from safereason.data.sources.description import Description, KindOf, cell_text, load_description
from safereason.errors import InputError
from safereason.text.verdict import Label

T = TypeVar("T")


def described_source(name: str) -> Source:
    """The source of a YAML file.

    Raises:
        InputError: There is no such file, or it has a mistake; the message says where.
    """
    description = load_description(name)
    file = _described_file(name, description)

    def prompts(split: Split) -> Iterator[Example]:
        examples = (build() for _, build in described_builders(name, description))
        # Without a column of ids the rows are numbered, and no two have the same number.
        if description.columns.id is None:
            return examples
        return with_unique_ids(examples, _local_path(file))

    page = str(file)
    if isinstance(file, HubFile):
        page = file.page
    # Without such a column the source has no traces, and asking for them is an error that says so.
    has_traces = description.columns.reasoning or description.columns.answer
    return Source(
        name=name,
        title=description.title,
        page=page,
        licence=description.licence,
        serves=description.serves,
        prompts=prompts,
        reasoned=traces_of(prompts) if has_traces else None,
    )


def described_inputs(name: str) -> list[Path]:
    """The description and, unless it is on the Hub, the file that it describes.

    Raises:
        InputError: There is no such description, or it has a mistake.
    """
    paths = [Path(name)]
    file = _described_file(name, load_description(name))
    if isinstance(file, Path):
        paths.append(file)
    return paths


def _described_file(name: str, description: Description) -> Path | HubFile:
    if description.hub is None:
        return Path(name).parent / (description.file or "")
    hub = description.hub
    # The description's name is the folder that a data home has the file in.
    return HubFile(Path(name).stem, hub.repo, hub.file, hub.revision)


def _local_path(file: Path | HubFile) -> Path:
    if isinstance(file, Path):
        return file
    return fetch(file)


def described_builders(name: str, description: Description) -> Iterator[tuple[int, Callable[[], Example]]]:
    """The number of each row, with a function that builds its example or raises the row's problem.

    Raises:
        InputError: The file is missing or cannot be read.
    """
    path = _local_path(_described_file(name, description))
    if not path.is_file():
        raise InputError(f"{path}: no such file; check `file` in {name}")
    labels: Mapping[str, Label] = {}
    if description.label:
        labels = description.label.values
    source = Path(name).stem
    for row in read_rows(path, _used_columns(description), advice=f"mend the file or {name}"):
        yield row.number, partial(_build_described_example, row, source, description, labels)


def _used_columns(description: Description) -> list[str]:
    """The columns that a description names, each once; other columns may be large and are not read."""
    columns = list(description.columns.model_dump(exclude_none=True).values())
    if description.kind.column:
        columns.append(description.kind.column)
    if description.label:
        columns.append(description.label.column)
    return list(dict.fromkeys(columns))


def _build_described_example(
    row: SourceRow, source: str, description: Description, labels: Mapping[str, Label]
) -> Example:
    columns = description.columns
    prompt = _optional_text(row, columns.prompt)
    if prompt is None or not prompt.strip():
        raise InputError(f"{row.where}: `{columns.prompt}` is blank; a prompt is expected")
    label = None
    if description.label:
        label = _mapped_value(row, description.label.column, labels)
    return Example(
        id=f"{source}/{_row_id(row, columns.id)}",
        prompt=prompt,
        kind=_row_kind(row, description.kind),
        source=source,
        category=_row_category(row, columns.category),
        reasoning=_optional_text(row, columns.reasoning),
        answer=_optional_text(row, columns.answer),
        response=_optional_text(row, columns.response),
        label=label,
        target=_optional_text(row, columns.target),
    )


def _optional_text(row: SourceRow, column: str | None) -> str | None:
    """The text of a column, or None where it is null or not described."""
    if column is None or row.get(column) is None:
        return None
    text = row[column]
    if not is_unicode(text):
        raise InputError(f"{row.where}: `{column}` holds half of a surrogate pair; no file can hold it")
    return text


def _row_id(row: SourceRow, column: str | None) -> str | int:
    if column is None:
        return row.number
    value = row.get(column)
    # Python counts True as a whole number.
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"{row.where}: `{column}` is {value!r:.60}; a text or a whole number is expected")
    return value


def _row_category(row: SourceRow, column: str | None) -> str | None:
    if column is None:
        return None
    value = row.get(column)
    # JSON and parquet may hold several categories as a list; a table has one text.
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return join_categories(value)
    return _optional_text(row, column)


def _row_kind(row: SourceRow, kind: KindOf) -> PromptKind:
    row_kind = kind.all
    if kind.column is not None:
        row_kind = _mapped_value(row, kind.column, kind.values)
    if row_kind is None:
        raise InputError(f"{row.where}: `{kind.column}` is null; {' or '.join(map(repr, kind.values))} is expected")
    return row_kind


def _mapped_value(row: SourceRow, column: str, mapping: Mapping[str, T]) -> T | None:
    """The value that a description maps a cell to, or None where the cell is null."""
    value = row.get(column)
    if value is None:
        return None
    # A YAML file and a table write the same value in different types, so they are compared as text.
    text = cell_text(value)
    if text not in mapping:
        raise InputError(f"{row.where}: `{column}` is {value!r:.60}; {' or '.join(map(repr, mapping))} is expected")
    return mapping[text]
