"""STAR-1: harmful questions with a reasoning model's trace and answer (Wang et al., arXiv 2504.01903)."""

from dataclasses import replace

from safereason.data.example import Example
from safereason.data.fetch import File
from safereason.data.sources.base import Source, Split, joined, rows
from safereason.text.reasoning import split as split_reasoning

FILE = File(
    source="star1",
    name="STAR-1.json",
    url="https://huggingface.co/datasets/UCSC-VLAA/STAR-1/resolve/main/STAR-1.json",
    sha256="cfff9b23307914ecf8a94a1d5526f71f7144fcfc5f651741bea1ac41b3184db4",
)


def _traces(split: Split) -> list[Example]:
    examples = []
    for row in rows(FILE):
        said = split_reasoning(row["response"])
        examples.append(
            Example(
                id=f"star1/{row['id']}",
                prompt=row["question"],
                kind="harmful",
                source="star1",
                category=joined(row.get("category")),
                reasoning=said.reasoning,
                answer=said.answer,
            )
        )
    return examples


def _prompts(split: Split) -> list[Example]:
    return [replace(example, reasoning=None, answer=None) for example in _traces(split)]


SOURCE = Source(
    name="star1",
    title="STAR-1: 1000 harmful questions with reasoning traces",
    page="https://huggingface.co/datasets/UCSC-VLAA/STAR-1",
    licence="Apache-2.0",
    serves=("train",),
    prompts=_prompts,
    reasoned=_traces,
    rows=1000,
)
