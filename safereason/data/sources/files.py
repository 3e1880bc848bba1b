"""A person's own data: a file with the columns of `Example`, or a YAML file that describes one with other columns."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from safereason.data.example import Example, from_row, stream_examples
from safereason.data.sources import described, description
from safereason.data.sources.base import FORMATS, Source, Split, read_rows, told_apart
from safereason.errors import InputError
from safereason.recipe.load import SUFFIXES as DESCRIPTIONS

SUFFIXES = (*FORMATS, *DESCRIPTIONS)
"""How the name of a person's own source may end."""


def source(name: str) -> Source:
    """The file at a path as a source; it serves as whatever the recipe takes it for, unless its description differs.

    Raises:
        InputError: It is a description with a mistake in it.
    """
    return described.source(name) if name.endswith(DESCRIPTIONS) else _of_examples(name)


def inputs(name: str) -> list[Path]:
    """The files of a person's own that the source of this name is read from; none for a public source.

    Raises:
        InputError: It is a description with a mistake in it.
    """
    if name.endswith(DESCRIPTIONS):
        return described.inputs(name)
    return [Path(name)] if name.endswith(FORMATS) else []


def makers(name: str) -> Iterator[tuple[int, Callable[[], Example]]]:
    """Each row's number, and what makes an example of it or says what is wrong with it.

    Raises:
        InputError: There is no such file, it cannot be read, or its description has a mistake in it.
    """
    return described.makers(name, description.load(name)) if name.endswith(DESCRIPTIONS) else _makers(Path(name))


def _of_examples(name: str) -> Source:
    path = Path(name)

    def prompts(split: Split) -> Iterator[Example]:
        return told_apart(_examples(path), path)

    def reasoned(split: Split) -> Iterator[Example]:
        return (e for e in prompts(split) if e.reasoning is not None or e.answer is not None)

    return Source(name, "your own file", name, "yours", ("train", "test"), prompts, reasoned)


def _examples(path: Path) -> Iterator[Example]:
    if path.suffix in (".jsonl", ".parquet"):
        return stream_examples(path)
    return (make() for _, make in _makers(path))


def _makers(path: Path) -> Iterator[tuple[int, Callable[[], Example]]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    for row in read_rows(path, mend="mend the file"):
        yield row.number, partial(from_row, dict(row.values), row.where)
