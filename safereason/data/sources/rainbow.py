"""What rainbow teaming found against a person's own SFT model (TARS, app. E; Samvelyan et al., arXiv 2402.16822).

There is nothing to download: an archive is one model's, and nobody published that of TARS. It is a JSONL file with
`prompt`, `risk` and `style` in each line, or what `safereason attack rainbow` writes, with `category` for the two; the
category is `risk/style`.
"""

from collections.abc import Iterator
from pathlib import Path

from safereason.data.example import Example
from safereason.data.fetch import data_home
from safereason.data.sources.base import Row, Source, Split, read_rows
from safereason.engines.embedded import cache_home
from safereason.errors import InputError


def _prompts(split: Split) -> Iterator[Example]:
    for row in read_rows(_archive(), mend="mend the file"):
        yield Example(f"rainbow/{row.number}", row["prompt"], "harmful", "rainbow", _category(row))


def _category(row: Row) -> str:
    return row["category"] if "category" in row.values else f"{row['risk']}/{row['style']}"


def _archive() -> Path:
    path = (data_home() or cache_home() / "data") / "rainbow" / "archive.jsonl"
    if not path.is_file():
        raise InputError(
            f"{path}: not there; no such archive is published: make one against your SFT model and put its "
            "archive.jsonl there, or leave it out with data.without_sources=[rainbow]"
        )
    return path


SOURCE = Source(
    name="rainbow",
    title="Rainbow teaming: what it found against your SFT model, by risk and attack style",
    page="https://arxiv.org/abs/2507.00971",
    licence="yours",
    serves=("train",),
    prompts=_prompts,
)
