"""Reads a person's own data by its description."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from safereason.data.example import Example, Kind, Label, is_unicode
from safereason.data.fetch import HubFile, fetch
from safereason.data.sources.base import Row, Source, Split, joined, read_rows, told_apart
from safereason.data.sources.description import Description, KindOf, load, plain
from safereason.errors import InputError

T = TypeVar("T")


def source(name: str) -> Source:
    """The source that a YAML file describes.

    Raises:
        InputError: There is no such file, or something is wrong with it; the message says where.
    """
    said = load(name)
    own = _file(name, said)

    def prompts(split: Split) -> Iterator[Example]:
        examples = (make() for _, make in makers(name, said))
        return told_apart(examples, own if isinstance(own, Path) else fetch(own)) if said.columns.id else examples

    def reasoned(split: Split) -> Iterator[Example]:
        return (e for e in prompts(split) if e.reasoning is not None or e.answer is not None)

    page = own.page if isinstance(own, HubFile) else str(own)
    has_traces = said.columns.reasoning or said.columns.answer
    return Source(name, said.title, page, said.licence, said.serves, prompts, reasoned if has_traces else None)


def inputs(name: str) -> list[Path]:
    """The description and, where it is on this machine, the file that it describes.

    Raises:
        InputError: There is no such description, or something is wrong with it.
    """
    own = _file(name, load(name))
    return [Path(name), *([own] if isinstance(own, Path) else [])]


def _file(name: str, said: Description) -> Path | HubFile:
    if said.hub is None:
        return Path(name).parent / (said.file or "")
    return HubFile(Path(name).stem, said.hub.repo, said.hub.file, said.hub.revision)


def makers(name: str, said: Description) -> Iterator[tuple[int, Callable[[], Example]]]:
    """Each row's number, and what makes an example of it or says what is wrong with it.

    Raises:
        InputError: There is no such file, or it cannot be read.
    """
    own = _file(name, said)
    path = own if isinstance(own, Path) else fetch(own)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check `file` in {name}")
    label = said.label
    used = [*said.columns.model_dump(exclude_none=True).values(), said.kind.column, label.column if label else None]
    rows = read_rows(path, list(dict.fromkeys(filter(None, used))), mend=f"mend the file or {name}")
    source, labels = Path(name).stem, label.values if label else {}
    for row in rows:
        yield row.number, partial(_example, row, source, said, labels)


def _example(row: Row, source: str, said: Description, labels: Mapping[str, Label]) -> Example:
    columns = said.columns
    prompt = _text(row, columns.prompt)
    if prompt is None or not prompt.strip():
        raise InputError(f"{row.where}: `{columns.prompt}` is blank; a prompt is expected")
    return Example(
        id=f"{source}/{_id(row, columns.id)}",
        prompt=prompt,
        kind=_kind(row, said.kind),
        source=source,
        category=_category(row, columns.category),
        reasoning=_text(row, columns.reasoning),
        answer=_text(row, columns.answer),
        response=_text(row, columns.response),
        label=_known(row, said.label.column, labels) if said.label else None,
        target=_text(row, columns.target),
    )


def _text(row: Row, column: str | None) -> str | None:
    if column is None or row.get(column) is None:
        return None
    if not is_unicode(text := row[column]):
        raise InputError(f"{row.where}: `{column}` holds half of a surrogate pair; no file can hold it")
    return text


def _id(row: Row, column: str | None) -> str | int:
    value = row.number if column is None else row.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"{row.where}: `{column}` is {value!r:.60}; a text or a whole number is expected")
    return value


def _category(row: Row, column: str | None) -> str | None:
    value = None if column is None else row.get(column)
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return joined(value)
    return _text(row, column)


def _kind(row: Row, kind: KindOf) -> Kind:
    found = kind.all if kind.column is None else _known(row, kind.column, kind.values)
    if found is None:
        raise InputError(f"{row.where}: `{kind.column}` is null; {' or '.join(map(repr, kind.values))} is expected")
    return found


def _known(row: Row, column: str, known: Mapping[str, T]) -> T | None:
    """What a cell stands for, or None where it is null."""
    value = row.get(column)
    if value is None:
        return None
    if plain(value) not in known:
        raise InputError(f"{row.where}: `{column}` is {value!r:.60}; {' or '.join(map(repr, known))} is expected")
    return known[plain(value)]
