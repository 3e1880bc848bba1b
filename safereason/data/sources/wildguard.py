"""WildGuardMix: vanilla and adversarial prompts, and answers to them (Han et al., arXiv 2406.18495).

A row with a null label is left out: its annotators did not agree. Of the 1725 test rows only those with both labels are
read, for prompts and for answers, since RSafe's figures are on 1689 of each. The category is the prompt's, and `benign`
for a harmless prompt.
"""

from collections.abc import Iterator
from typing import Literal

from safereason.data.example import Example
from safereason.data.fetch import HubFile
from safereason.data.sources.base import KIND, Source, SourceRow, Split, published_rows
from safereason.text.verdict import Label

REPO = "allenai/wildguardmix"
REVISION = "d29c47f41c8b51348b5c8e8c81c039b3132b66d1"
FILES: dict[Split, HubFile] = {
    split: HubFile("wildguardmix", REPO, f"{split}/wildguard_{split}.parquet", REVISION) for split in ("train", "test")
}
Task = Literal["prompt", "response"]


def _read_wildguard_rows(name: str, split: Split, task: Task, adversarial: bool | None) -> Iterator[Example]:
    """The labelled rows of one task, for all prompts or for those that are adversarial or not."""
    for row in published_rows(FILES[split]):
        if adversarial not in (None, row.flag("adversarial")):
            continue
        label = _harm_label(row, task)
        if label is None:
            continue
        # An answer is then measured on the same rows as its prompt.
        if split == "test" and not (_harm_label(row, "prompt") and _harm_label(row, "response")):
            continue
        prompt = row.text("prompt")
        if prompt:
            yield _wildguard_example(name, row, prompt, task, label)


def _wildguard_example(name: str, row: SourceRow, prompt: str, task: Task, label: Label) -> Example:
    """A row as an example; an answer has the kind of its prompt, or `ambiguous` where that has no label."""
    prompt_label = _harm_label(row, "prompt")
    return Example(
        id=f"{name}/{row.number}",
        prompt=prompt,
        kind=KIND[prompt_label] if prompt_label else "ambiguous",
        source=name,
        category=row.text("subcategory"),
        response=row["response"] if task == "response" else None,
        label=label,
    )


def _harm_label(row: SourceRow, task: Task) -> Label | None:
    return row.label(f"{task}_harm_label", {"unharmful": "safe", "harmful": "unsafe"})


def _wildguard_source(
    name: str, title: str, split: Split, count: int | None, task: Task = "prompt", adversarial: bool | None = None
) -> Source:
    def read(split: Split) -> Iterator[Example]:
        return _read_wildguard_rows(name, split, task, adversarial)

    page = f"https://huggingface.co/datasets/{REPO}"
    return Source(name, title, page, "ODC-By-1.0", (split,), read, gated=True, rows=count)


SOURCES = (
    _wildguard_source("wildguardtrain", "WildGuardTrain: 87 thousand prompts, by 13 kinds of harm", "train", 86_759),
    _wildguard_source(
        "wildguardtrain-vanilla", "WildGuardTrain: its prompts that are no attack", "train", None, adversarial=False
    ),
    _wildguard_source("wildguardtrain-responses", "WildGuardTrain: 38 thousand answers", "train", 37_976, "response"),
    _wildguard_source("wildguardtest", "WildGuardTest: prompts that people labelled", "test", 1725),
    _wildguard_source("wildguardtest-adversarial", "WildGuardTest: its attacks", "test", None, adversarial=True),
    _wildguard_source(
        "wildguardtest-vanilla", "WildGuardTest: its prompts that are no attack", "test", None, adversarial=False
    ),
    _wildguard_source(
        "wildguardtest-responses", "WildGuardTest: answers that people labelled", "test", 1725, "response"
    ),
)
