"""Bundled sample, written for this project: requests of all three kinds, many with reasoning."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from safereason.data.example import KINDS, Example
from safereason.data.sources.base import Source, Split
from safereason.runs.records import Record, read_records

FOLDER = Path(__file__).parent.parent / "sample"


def _read_sample_rows(split: Split) -> Iterator[tuple[Example, list[Record]]]:
    for kind in KINDS:
        for row in read_records(FOLDER / f"{kind}.jsonl"):
            # Both splits of a kind are in one file, which is easier to edit.
            if row["split"] == split:
                example = Example(f"sample/{row['id']}", row["prompt"], kind, "sample", category=row["category"])
                yield example, row["traces"]


def _read_sample_prompts(split: Split) -> Iterator[Example]:
    for example, _ in _read_sample_rows(split):
        yield example


def _read_sample_traces(split: Split) -> Iterator[Example]:
    for example, traces in _read_sample_rows(split):
        for number, trace in enumerate(traces, start=1):
            trace_id = f"{example.id}/{number}"
            yield replace(example, id=trace_id, reasoning=trace["reasoning"], answer=trace["answer"])


def _read_harmless_prompts(split: Split) -> Iterator[Example]:
    for example in _read_sample_prompts(split):
        if example.kind == "harmless":
            yield example


SOURCE = Source(
    name="sample",
    title="bundled sample: harmful, harmless and ambiguous requests, many of the training ones with reasoning",
    page="safereason/data/sample",
    licence="Apache-2.0",
    serves=("train", "test"),
    prompts=_read_sample_prompts,
    reasoned=_read_sample_traces,
    rows=510,
)

# For evaluations of over-refusal, which need a source of harmless requests alone.
HARMLESS = Source(
    name="sample-harmless",
    title="the harmless requests of the bundled sample",
    page="safereason/data/sample",
    licence="Apache-2.0",
    serves=("train", "test"),
    prompts=_read_harmless_prompts,
    rows=240,
)
