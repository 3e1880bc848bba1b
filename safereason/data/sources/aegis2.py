"""Aegis 2.0: prompts that people labelled by a risk taxonomy (Ghosh et al., arXiv 2501.09004).

The label is the prompt's. Prompts that the publisher blanked out (REDACTED, a few dozen of the 1964 test rows) are left
out. So are `validation.json`, which no split stands for, and the `refusals_*.json`, which repeat prompts of the others
with refusals as responses.
"""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import HubFile
from safereason.data.sources.base import KIND, Row, Source, Split, joined, rows

REPO = "nvidia/Aegis-AI-Content-Safety-Dataset-2.0"
REVISION = "d86bb8bedff51d25ac834ab7838f1cc61acb7a2c"
REDACTED = "REDACTED"


def _prompts(split: Split) -> Iterator[Example]:
    for row in rows(HubFile("aegis2", REPO, f"{split}.json", REVISION)):
        label, prompt = row.label("prompt_label", {"safe": "safe", "unsafe": "unsafe"}), row.text("prompt")
        if label and prompt and prompt != REDACTED:
            yield Example(f"aegis2/{row['id']}", prompt, KIND[label], "aegis2", _categories(row), label=label)


def _categories(row: Row) -> str | None:
    return joined(name.strip() for name in (row.text("violated_categories") or "").split(",") if name.strip())


SOURCE = Source(
    name="aegis2",
    title="Aegis 2.0: 25 007 training and 1964 test prompts, by a taxonomy of risks",
    page=f"https://huggingface.co/datasets/{REPO}",
    licence="CC-BY-4.0",
    serves=("train", "test"),
    prompts=_prompts,
    rows=26_971,
)
