"""Your own examples: a `.jsonl` or `.parquet` file with the columns of `Example`."""

from collections import Counter
from pathlib import Path

from safereason.data.example import Example, read_examples
from safereason.data.sources.base import Source, Split
from safereason.errors import InputError

SUFFIXES = (".jsonl", ".parquet")


def source(path: str) -> Source:
    """The file as a source; it serves as whatever the recipe takes it for."""

    def prompts(split: Split) -> list[Example]:
        return _read(Path(path))

    def reasoned(split: Split) -> list[Example]:
        return [e for e in _read(Path(path)) if e.reasoning is not None or e.answer is not None]

    return Source(
        name=path,
        title="your own file",
        page=path,
        licence="yours",
        serves=("train", "test"),
        prompts=prompts,
        reasoned=reasoned,
    )


def _read(path: Path) -> list[Example]:
    examples = read_examples(path)
    repeated = [name for name, count in Counter(e.id for e in examples).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: the id {repeated[0]!r} is there more than once; give each row its own")
    return examples
