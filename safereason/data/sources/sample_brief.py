"""Bundled sample with brief traces: one sentence of reasoning and one of answer, for runs that must be short."""

from collections.abc import Iterator
from dataclasses import replace

from safereason.data.example import Example
from safereason.data.sources import sample
from safereason.data.sources.base import Source, Split
from safereason.runs.records import read_records


def _read_brief_traces(split: Split) -> Iterator[Example]:
    prompts = {example.id: example for example in sample.SOURCE.load(split)}
    for row in read_records(sample.FOLDER / "brief.jsonl"):
        # The file has the traces of both splits.
        example = prompts.get(f"sample/{row['id']}")
        if example is not None:
            trace_id = f"{example.id}/brief"
            yield replace(example, id=trace_id, source="sample-brief", reasoning=row["reasoning"], answer=row["answer"])


SOURCE = Source(
    name="sample-brief",
    title="the prompts of the bundled sample, with brief reasoning for 200 of the training ones",
    page="safereason/data/sample",
    licence="Apache-2.0",
    serves=("train", "test"),
    prompts=sample.SOURCE.load,
    reasoned=_read_brief_traces,
    rows=510,
)
