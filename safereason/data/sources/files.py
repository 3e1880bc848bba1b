"""Sources from your own data: a file with the columns of `Example`, or a YAML description of any other file."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from safereason.data.example import Example, from_row, stream_examples
from safereason.data.sources import described, description
from safereason.data.sources.base import FILE_ENDINGS, Source, Split, read_rows, traces_of, with_unique_ids
from safereason.errors import InputError
from safereason.recipe.named import SUFFIXES as DESCRIPTIONS

SOURCE_ENDINGS = (*FILE_ENDINGS, *DESCRIPTIONS)
"""Endings of the name of a source of your own."""


def own_source(name: str) -> Source:
    """The source of a file or of a description. A file serves both splits; a description may name one.

    Raises:
        InputError: The description has a mistake.
    """
    if name.endswith(DESCRIPTIONS):
        return described.described_source(name)
    return _source_of_examples(name)


def inputs(name: str) -> list[Path]:
    """Your own files that a source is read from; none for a public source.

    Raises:
        InputError: The description has a mistake.
    """
    if name.endswith(DESCRIPTIONS):
        return described.described_inputs(name)
    if name.endswith(FILE_ENDINGS):
        return [Path(name)]
    return []


def example_builders(name: str) -> Iterator[tuple[int, Callable[[], Example]]]:
    """The number of each row, with a function that builds its example or raises the row's problem.

    With functions, a caller that checks a file goes on after a bad row.

    Raises:
        InputError: The file is missing or cannot be read, or its description has a mistake.
    """
    if name.endswith(DESCRIPTIONS):
        return described.described_builders(name, description.load_description(name))
    return _builders_by_row(Path(name))


def _source_of_examples(name: str) -> Source:
    path = Path(name)

    def prompts(split: Split) -> Iterator[Example]:
        return with_unique_ids(_read_own_examples(path), path)

    return Source(
        name=name,
        title="your own file",
        page=name,
        licence="yours",
        serves=("train", "test"),
        prompts=prompts,
        reasoned=traces_of(prompts),
    )


def _read_own_examples(path: Path) -> Iterator[Example]:
    # The two formats that this package writes have a reader of their own, which is faster.
    if path.suffix in (".jsonl", ".parquet"):
        return stream_examples(path)
    return (build() for _, build in _builders_by_row(path))


def _builders_by_row(path: Path) -> Iterator[tuple[int, Callable[[], Example]]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    for row in read_rows(path, advice="mend the file"):
        yield row.number, partial(from_row, dict(row.values), row.where)
