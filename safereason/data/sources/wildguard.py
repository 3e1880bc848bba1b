"""WildGuardMix: vanilla and adversarial prompts, and answers to them (Han et al., arXiv 2406.18495).

A row whose label is null, because its annotators did not agree, is left out. Of the 1725 test rows only those are read
that have both labels, for prompts as for answers: RSafe's figures are on 1689 of either. The category is the prompt's;
that of a harmless one is `benign`.
"""

from collections.abc import Iterator
from typing import Literal

from safereason.data.example import Example, Label
from safereason.data.fetch import HubFile
from safereason.data.sources.base import KIND, Row, Source, Split, rows

REPO = "allenai/wildguardmix"
REVISION = "d29c47f41c8b51348b5c8e8c81c039b3132b66d1"
FILES: dict[Split, HubFile] = {
    split: HubFile("wildguardmix", REPO, f"{split}/wildguard_{split}.parquet", REVISION) for split in ("train", "test")
}
Task = Literal["prompt", "response"]


def _read(name: str, split: Split, task: Task, adversarial: bool | None) -> Iterator[Example]:
    """The labelled rows of one task; of all prompts, or only the adversarial or the other ones."""
    for row in rows(FILES[split]):
        if (
            adversarial in (None, row.flag("adversarial"))
            and (label := _label(row, task))
            and (split == "train" or (_label(row, "prompt") and _label(row, "response")))
            and (prompt := row.text("prompt"))
        ):
            yield _example(name, row, prompt, task, label)


def _example(name: str, row: Row, prompt: str, task: Task, label: Label) -> Example:
    """An answer's kind is its prompt's, and `ambiguous` where that has no label."""
    of_prompt = _label(row, "prompt")
    return Example(
        id=f"{name}/{row.number}",
        prompt=prompt,
        kind=KIND[of_prompt] if of_prompt else "ambiguous",
        source=name,
        category=row.text("subcategory"),
        response=row["response"] if task == "response" else None,
        label=label,
    )


def _label(row: Row, task: Task) -> Label | None:
    return row.label(f"{task}_harm_label", {"unharmful": "safe", "harmful": "unsafe"})


def _source(
    name: str, title: str, split: Split, count: int | None, task: Task = "prompt", adversarial: bool | None = None
) -> Source:
    def read(split: Split) -> Iterator[Example]:
        return _read(name, split, task, adversarial)

    page = f"https://huggingface.co/datasets/{REPO}"
    return Source(name, title, page, "ODC-By-1.0", (split,), read, gated=True, rows=count)


SOURCES = (
    _source("wildguardtrain", "WildGuardTrain: 87 thousand prompts, by 13 kinds of harm", "train", 86_759),
    _source(
        "wildguardtrain-vanilla", "WildGuardTrain: its prompts that are no attack", "train", None, adversarial=False
    ),
    _source("wildguardtrain-responses", "WildGuardTrain: 38 thousand answers", "train", 37_976, "response"),
    _source("wildguardtest", "WildGuardTest: prompts that people labelled", "test", 1725),
    _source("wildguardtest-adversarial", "WildGuardTest: its attacks", "test", None, adversarial=True),
    _source("wildguardtest-vanilla", "WildGuardTest: its prompts that are no attack", "test", None, adversarial=False),
    _source("wildguardtest-responses", "WildGuardTest: answers that people labelled", "test", 1725, "response"),
)
