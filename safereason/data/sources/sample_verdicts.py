r"""Bundled verdicts, written for this project: prompts of the sample and short responses, labelled with reasons.

They are for a guard's warm start. Categories are ids of the default policy. An answer has the form of a guard's: a line
with the categories where there are any, then `\boxed{safe}` or `\boxed{unsafe}`.
"""

from collections.abc import Iterator
from dataclasses import replace

from safereason.data.example import Example
from safereason.data.sources import sample
from safereason.data.sources.base import Source, Split, join_categories
from safereason.runs.records import Record, read_records


def _read_verdict_rows(split: Split) -> Iterator[tuple[Example, Record]]:
    # Prompts are in the sample's own files alone, so that the two cannot differ.
    prompts = {example.id: example for example in sample.SOURCE.load(split)}
    for row in read_records(sample.FOLDER / "verdicts.jsonl"):
        if row["split"] == split:
            # An id is the prompt's own, with a suffix where several responses to one prompt follow.
            prompt_id = row["id"].partition("/")[0]
            example = replace(
                prompts[f"sample/{prompt_id}"],
                id=f"sample-verdicts/{row['id']}",
                source="sample-verdicts",
                category=join_categories(row["categories"]),
                response=row.get("response"),
                label=row["label"],
            )
            yield example, row


def _read_verdict_prompts(split: Split) -> Iterator[Example]:
    for example, _ in _read_verdict_rows(split):
        yield example


def _read_reasoned_verdicts(split: Split) -> Iterator[Example]:
    for example, row in _read_verdict_rows(split):
        yield replace(example, reasoning=row["reasoning"], answer=_verdict_answer(row))


def _verdict_answer(row: Record) -> str:
    verdict = rf"\boxed{{{row['label']}}}"
    if row["categories"]:
        return f"Categories: {', '.join(row['categories'])}\n\n{verdict}"
    return verdict


SOURCE = Source(
    name="sample-verdicts",
    title="prompts of the bundled sample and short responses to some, labelled safe or unsafe with brief reasoning",
    page="safereason/data/sample",
    licence="Apache-2.0",
    serves=("train", "test"),
    prompts=_read_verdict_prompts,
    reasoned=_read_reasoned_verdicts,
    rows=360,
)
