r"""Bundled verdicts, written for this project: prompts of the sample, and short replies to them, labelled with reasons.

They warm a guard up. Categories are ids of the default policy, and an answer is what a guard ends with: a line that
names them where there are any, then `\boxed{safe}` or `\boxed{unsafe}`.
"""

from collections.abc import Iterator
from dataclasses import replace

from safereason.data.example import Example
from safereason.data.sources import sample
from safereason.data.sources.base import Source, Split
from safereason.runs.records import Record, read_records


def _rows(split: Split) -> Iterator[tuple[Example, Record]]:
    prompts = {example.id: example for example in sample.SOURCE.load(split)}
    for row in read_records(sample.FOLDER / "verdicts.jsonl"):
        if row["split"] == split:
            of_sample = row["id"].partition("/")[0]  # what follows it tells the replies to one prompt apart
            example = replace(
                prompts[f"sample/{of_sample}"],
                id=f"sample-verdicts/{row['id']}",
                source="sample-verdicts",
                category="; ".join(row["categories"]) or None,
                response=row.get("response"),
                label=row["label"],
            )
            yield example, row


def _prompts(split: Split) -> list[Example]:
    return [example for example, _ in _rows(split)]


def _reasoned(split: Split) -> list[Example]:
    return [replace(example, reasoning=row["reasoning"], answer=_answer(row)) for example, row in _rows(split)]


def _answer(row: Record) -> str:
    named = f"Categories: {', '.join(row['categories'])}\n\n" if row["categories"] else ""
    return rf"{named}\boxed{{{row['label']}}}"


SOURCE = Source(
    name="sample-verdicts",
    title="prompts of the bundled sample and short replies to some, labelled safe or unsafe with brief reasoning",
    page="safereason/data/sample",
    licence="Apache-2.0",
    serves=("train", "test"),
    prompts=_prompts,
    reasoned=_reasoned,
    rows=360,
)
