"""Rainbow teaming: prompts that succeeded against your SFT model (TARS, app. E; Samvelyan et al., arXiv 2402.16822).

There is nothing to download: an archive belongs to one model. Yours is a JSONL file with `prompt`, `risk` and `style`
in each line, or the output of `safereason attack rainbow`, which has `category` in place of the two. The category is
`risk/style`. The archives that TARS's authors made against their own SFT model are the source `rainbow-released`.
"""

from collections.abc import Iterator
from pathlib import Path

from safereason.data.example import Example
from safereason.data.fetch import data_folder
from safereason.data.sources.base import Source, SourceRow, Split, read_rows
from safereason.errors import InputError


def _read_rainbow_prompts(split: Split) -> Iterator[Example]:
    for row in read_rows(_archive_path(), advice="mend the file"):
        yield Example(f"rainbow/{row.number}", row["prompt"], "harmful", "rainbow", _risk_and_style(row))


def _risk_and_style(row: SourceRow) -> str:
    if "category" in row.values:
        return row["category"]
    return f"{row['risk']}/{row['style']}"


def _archive_path() -> Path:
    # The same place as for downloaded files, so that one copy of a data home serves all recipes.
    path = data_folder() / "rainbow" / "archive.jsonl"
    if not path.is_file():
        raise InputError(
            f"{path}: not there; make one against your SFT model and put its archive.jsonl there, name "
            "rainbow-released, the authors' own, in its place, or leave it out with data.without_sources=[rainbow]"
        )
    return path


SOURCE = Source(
    name="rainbow",
    title="Rainbow teaming: what it found against your SFT model, by risk and attack style",
    page="https://arxiv.org/abs/2507.00971",
    licence="yours",
    serves=("train",),
    prompts=_read_rainbow_prompts,
)
