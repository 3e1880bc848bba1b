"""BeaverTails: answers labelled safe or not (Ji et al., arXiv 2307.04657), in its release of 30 thousand.

The publisher labels answers and not prompts, so the kind is `ambiguous`.
"""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import HubFile
from safereason.data.sources.base import Source, Split, published_rows

REPO = "PKU-Alignment/BeaverTails"
REVISION = "8401fe609d288129cc684a9b3be6a93e41cfe678"


def _read_beavertails_responses(split: Split) -> Iterator[Example]:
    for row in published_rows(HubFile("beavertails", REPO, f"round0/30k/{split}.jsonl.gz", REVISION)):
        label = row.label("is_safe", {True: "safe", False: "unsafe"})
        prompt = row.text("prompt")
        if label and prompt:
            yield Example(
                # Several rows have the same prompt, so the row's number tells them apart.
                id=f"beavertails/{split}/{row.number}",
                prompt=prompt,
                kind="ambiguous",
                source="beavertails",
                category=row.chosen("category"),
                response=row["response"],
                label=label,
            )


SOURCE = Source(
    name="beavertails",
    title="BeaverTails: 27 186 training and 3021 test answers, by 14 categories of harm",
    page=f"https://huggingface.co/datasets/{REPO}",
    licence="CC-BY-NC-4.0",
    serves=("train", "test"),
    prompts=_read_beavertails_responses,
    rows=30_207,
)
