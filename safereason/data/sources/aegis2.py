"""Aegis 2.0: prompts that people labelled by a risk taxonomy (Ghosh et al., arXiv 2501.09004).

The label is the prompt's. Prompts that the publisher blanked out (REDACTED, a few dozen of the 1964 test rows) are left
out. The file `validation.json` is in no split. The `refusals_*.json` are left out too, since they repeat prompts of the
other files with refusals as responses.
"""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import HubFile
from safereason.data.sources.base import KIND, Source, SourceRow, Split, join_categories, published_rows

REPO = "nvidia/Aegis-AI-Content-Safety-Dataset-2.0"
REVISION = "d86bb8bedff51d25ac834ab7838f1cc61acb7a2c"
# Prompts that come from the Suicide Detection dataset are published with this in place of their text.
REDACTED = "REDACTED"


def _read_aegis2_prompts(split: Split) -> Iterator[Example]:
    for row in published_rows(HubFile("aegis2", REPO, f"{split}.json", REVISION)):
        label = row.label("prompt_label", {"safe": "safe", "unsafe": "unsafe"})
        prompt = row.text("prompt")
        if label and prompt and prompt != REDACTED:
            yield Example(f"aegis2/{row['id']}", prompt, KIND[label], "aegis2", _violated_categories(row), label=label)


def _violated_categories(row: SourceRow) -> str | None:
    # No category has a comma in its name.
    names = [name.strip() for name in (row.text("violated_categories") or "").split(",")]
    return join_categories(name for name in names if name)


SOURCE = Source(
    name="aegis2",
    title="Aegis 2.0: 25 007 training and 1964 test prompts, by a taxonomy of risks",
    page=f"https://huggingface.co/datasets/{REPO}",
    licence="CC-BY-4.0",
    serves=("train", "test"),
    prompts=_read_aegis2_prompts,
    rows=26_971,
)
