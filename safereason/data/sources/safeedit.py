"""SafeEdit: harmful questions inside attack templates, by nine kinds of harm (Wang et al., arXiv 2403.14472).

The prompt is the whole attack and not the question in it: many rows share a question, and each attack is unique. TARS
does not say which of the two it takes. The publisher's validation rows are in no split.
"""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import HubFile
from safereason.data.sources.base import Source, Split, published_rows

REPO = "zjunlp/SafeEdit"
REVISION = "a88b7689a3744873805077e04edd1c19219fc7bf"


def _read_safeedit_prompts(split: Split) -> Iterator[Example]:
    for row in published_rows(HubFile("safeedit", REPO, f"SafeEdit_{split}.json", REVISION)):
        prompt = row.text("adversarial prompt")
        if prompt:
            yield Example(
                id=f"safeedit/{split}/{row.number}",
                prompt=prompt,
                kind="harmful",
                source="safeedit",
                category=row.text("unsafety category"),
            )


SOURCE = Source(
    name="safeedit",
    title="SafeEdit: 4050 training and 1350 test attacks, by nine kinds of harm",
    page=f"https://huggingface.co/datasets/{REPO}",
    licence="CC-BY-NC-SA-4.0",
    serves=("train", "test"),
    prompts=_read_safeedit_prompts,
    gated=True,
    rows=5400,
)
