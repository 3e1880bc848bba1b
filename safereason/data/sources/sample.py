"""The bundled sample, written for this project: requests of all three kinds, many with reasoning."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from safereason.data.example import Example, Kind
from safereason.data.sources.base import Source, Split
from safereason.runs.records import Record, read_records

FOLDER = Path(__file__).parent.parent / "sample"


def _rows(split: Split) -> Iterator[tuple[Example, list[Record]]]:
    for kind in get_args(Kind):
        for row in read_records(FOLDER / f"{kind}.jsonl"):
            if row["split"] == split:
                example = Example(f"sample/{row['id']}", row["prompt"], kind, "sample", category=row["category"])
                yield example, row["traces"]


def _prompts(split: Split) -> list[Example]:
    return [example for example, _ in _rows(split)]


def _traces(split: Split) -> list[Example]:
    return [
        Example(f"{e.id}/{n}", e.prompt, e.kind, e.source, e.category, trace["reasoning"], trace["answer"])
        for e, traces in _rows(split)
        for n, trace in enumerate(traces, start=1)
    ]


def _harmless(split: Split) -> list[Example]:
    return [example for example in _prompts(split) if example.kind == "harmless"]


SOURCE = Source(
    name="sample",
    title="bundled sample: harmful, harmless and ambiguous requests, many of the training ones with reasoning",
    page="safereason/data/sample",
    licence="Apache-2.0",
    serves=("train", "test"),
    prompts=_prompts,
    reasoned=_traces,
    rows=510,
)

HARMLESS = Source(
    name="sample-harmless",
    title="the harmless requests of the bundled sample",
    page="safereason/data/sample",
    licence="Apache-2.0",
    serves=("train", "test"),
    prompts=_harmless,
    rows=240,
)
