"""STAR-1: harmful questions with a reasoning model's trace and answer (Wang et al., arXiv 2504.01903)."""

from collections.abc import Iterator
from dataclasses import replace

from safereason.data.example import Example
from safereason.data.fetch import File
from safereason.data.sources.base import Source, Split, join_categories, published_rows
from safereason.text.reasoning import split as split_reasoning

FILE = File(
    source="star1",
    name="STAR-1.json",
    # `main` may move, and the hash pins the file.
    url="https://huggingface.co/datasets/UCSC-VLAA/STAR-1/resolve/main/STAR-1.json",
    sha256="cfff9b23307914ecf8a94a1d5526f71f7144fcfc5f651741bea1ac41b3184db4",
)


def _read_star1_traces(split: Split) -> Iterator[Example]:
    for row in published_rows(FILE):
        # The response is a reasoning model's. It is split as an evaluation splits completions.
        parts = split_reasoning(row["response"])
        yield Example(
            id=f"star1/{row['id']}",
            prompt=row["question"],
            kind="harmful",
            source="star1",
            category=join_categories(row.get("category")),
            reasoning=parts.reasoning,
            answer=parts.answer,
        )


def _read_star1_prompts(split: Split) -> Iterator[Example]:
    for example in _read_star1_traces(split):
        yield replace(example, reasoning=None, answer=None)


SOURCE = Source(
    name="star1",
    title="STAR-1: 1000 harmful questions with reasoning traces",
    page="https://huggingface.co/datasets/UCSC-VLAA/STAR-1",
    licence="Apache-2.0",
    serves=("train",),
    prompts=_read_star1_prompts,
    reasoned=_read_star1_traces,
    rows=1000,
)
