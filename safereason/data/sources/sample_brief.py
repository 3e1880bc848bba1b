"""The bundled sample with brief traces: one sentence of reasoning and one of answer, for runs where tokens are dear."""

from safereason.data.example import Example
from safereason.data.sources import sample
from safereason.data.sources.base import Source, Split
from safereason.runs.records import read_records


def _traces(split: Split) -> list[Example]:
    prompts = {example.id: example for example in sample.SOURCE.load(split)}
    rows = ((prompts.get(f"sample/{row['id']}"), row) for row in read_records(sample.FOLDER / "brief.jsonl"))
    return [
        Example(f"{e.id}/brief", e.prompt, e.kind, "sample-brief", e.category, row["reasoning"], row["answer"])
        for e, row in rows
        if e is not None
    ]


SOURCE = Source(
    name="sample-brief",
    title="the prompts of the bundled sample, with brief reasoning for 200 of the training ones",
    page="safereason/data/sample",
    licence="Apache-2.0",
    serves=("train", "test"),
    prompts=sample.SOURCE.load,
    reasoned=_traces,
    rows=510,
)
