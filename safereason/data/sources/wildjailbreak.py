"""WildJailbreak: synthetic requests and jailbreaks, harmful and benign (Jiang et al., arXiv 2406.18510).

The prompt of a row is its adversarial text where it has one, or else its vanilla text, as in TARS. The category is the
publisher's `data_type`. Benign rows look harmful, or like a jailbreak. The publisher calls them harmless, and so does
this source, as with the safe prompts of XSTest.
"""

from collections.abc import Iterator, Sequence

from safereason.data.example import Example
from safereason.data.fetch import HubFile
from safereason.data.sources.base import KIND, Source, SourceRow, Split, published_rows
from safereason.text.verdict import Label

REPO = "allenai/wildjailbreak"
REVISION = "5ddc12a7894f842b0619b8e1c7ee496b198af009"
TYPES: dict[str, Label] = {
    "vanilla_harmful": "unsafe",
    "adversarial_harmful": "unsafe",
    "vanilla_benign": "safe",
    "adversarial_benign": "safe",
}
# The evaluation file has no vanilla texts.
TEXTS: dict[Split, tuple[str, ...]] = {"train": ("adversarial", "vanilla"), "test": ("adversarial",)}
"""Columns of the prompt, of which the first that is not blank counts."""


def _wildjailbreak_source(name: str, title: str, split: Split, labels: tuple[Label, ...], count: int) -> Source:
    file = HubFile("wildjailbreak", REPO, "train/train.tsv" if split == "train" else "eval/eval.tsv", REVISION)

    def prompts(split: Split) -> Iterator[Example]:
        for row in published_rows(file):
            label = row.label("data_type", TYPES)
            prompt = _first_text(row, TEXTS[split])
            if label in labels and prompt:
                yield Example(f"{name}/{row.number}", prompt, KIND[label], name, row["data_type"], label=label)

    page = f"https://huggingface.co/datasets/{REPO}"
    return Source(name, title, page, "ODC-By-1.0", (split,), prompts, gated=True, rows=count)


def _first_text(row: SourceRow, columns: Sequence[str]) -> str | None:
    for column in columns:
        text = row.text(column)
        if text:
            return text
    return None


SOURCE = _wildjailbreak_source(
    "wildjailbreak", "WildJailbreak: 133 thousand harmful requests and jailbreaks", "train", ("unsafe",), 132_778
)
BENIGN = _wildjailbreak_source(
    "wildjailbreak-benign", "WildJailbreak: 129 thousand benign look-alikes of both", "train", ("safe",), 128_781
)
EVAL = _wildjailbreak_source(
    "wildjailbreak-eval", "WildJailbreak: 2000 jailbreaks, 210 benign look-alikes", "test", ("unsafe", "safe"), 2210
)
