"""The evaluation set of OpenAI's Moderation API (Markov et al., arXiv 2208.03274).

A prompt is unsafe if any of its labels is 1. A label that is missing is not known, and counts as no harm. Categories
are the publisher's codes, such as `S` and `H2`.
"""

from safereason.data.example import Example, Label
from safereason.data.fetch import File
from safereason.data.sources.base import KIND, Row, Source, Split, joined, rows

FILE = File(
    source="openai_moderation",
    name="samples-1680.jsonl.gz",
    url="https://raw.githubusercontent.com/openai/moderation-api-release/f4ab51b5edd3bfbcb349a56324274235b674e0e4/"
    "data/samples-1680.jsonl.gz",
    sha256="ef3f7de86ee394fe337b0a566ba4b9c7db058f3caa8d6a4a0006138b663ab9a8",
)
CODES = ("S", "H", "V", "HR", "SH", "S3", "H2", "V2")


def _prompts(split: Split) -> list[Example]:
    return [_example(row) for row in rows(FILE)]


def _example(row: Row) -> Example:
    harms = [code for code in CODES if code in row.values and row.label(code, {0: "safe", 1: "unsafe"}) == "unsafe"]
    label: Label = "unsafe" if harms else "safe"
    return Example(
        id=f"openai-moderation/{row.number}",
        prompt=row["prompt"],
        kind=KIND[label],
        source="openai-moderation",
        category=joined(harms),
        label=label,
    )


SOURCE = Source(
    name="openai-moderation",
    title="OpenAI Moderation: 1680 prompts with labels of eight categories, 522 of them harmful",
    page="https://github.com/openai/moderation-api-release",
    licence="MIT",
    serves=("test",),
    prompts=_prompts,
    rows=1680,
)
