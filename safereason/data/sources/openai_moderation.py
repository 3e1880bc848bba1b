"""The evaluation set of OpenAI's Moderation API (Markov et al., arXiv 2208.03274).

A prompt is unsafe if any of its labels is 1. A missing label means that nobody checked, and counts as no harm.
Categories are the publisher's codes, such as `S` and `H2`.
"""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import File
from safereason.data.sources.base import KIND, Source, SourceRow, Split, join_categories, published_rows
from safereason.text.verdict import Label

FILE = File(
    source="openai_moderation",
    name="samples-1680.jsonl.gz",
    url="https://raw.githubusercontent.com/openai/moderation-api-release/f4ab51b5edd3bfbcb349a56324274235b674e0e4/"
    "data/samples-1680.jsonl.gz",
    sha256="ef3f7de86ee394fe337b0a566ba4b9c7db058f3caa8d6a4a0006138b663ab9a8",
)
# Sexual, hate, violence, harassment and self-harm, then sexual/minors, hate/threatening and violence/graphic. The order
# is that of an example's categories.
CODES = ("S", "H", "V", "HR", "SH", "S3", "H2", "V2")


def _read_openai_moderation_prompts(split: Split) -> Iterator[Example]:
    for row in published_rows(FILE):
        yield _openai_moderation_example(row)


def _openai_moderation_example(row: SourceRow) -> Example:
    harms = []
    for code in CODES:
        # A row has only the columns that were checked.
        if code in row.values and row.label(code, {0: "safe", 1: "unsafe"}) == "unsafe":
            harms.append(code)
    label: Label = "unsafe" if harms else "safe"
    return Example(
        id=f"openai-moderation/{row.number}",
        prompt=row["prompt"],
        kind=KIND[label],
        source="openai-moderation",
        category=join_categories(harms),
        label=label,
    )


SOURCE = Source(
    name="openai-moderation",
    title="OpenAI Moderation: 1680 prompts with labels of eight categories, 522 of them harmful",
    page="https://github.com/openai/moderation-api-release",
    licence="MIT",
    serves=("test",),
    prompts=_read_openai_moderation_prompts,
    rows=1680,
)
