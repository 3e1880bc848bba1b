"""WildJailbreak: synthetic requests and jailbreaks, harmful and benign (Jiang et al., arXiv 2406.18510).

A row's prompt is its adversarial text where it has one, else its vanilla text, as TARS takes it; its category is the
publisher's `data_type`. Benign rows look harmful, or like a jailbreak, and are what the publisher calls them: harmless,
as the safe prompts of XSTest are.
"""

from collections.abc import Iterator

from safereason.data.example import Example, Label
from safereason.data.fetch import HubFile
from safereason.data.sources.base import KIND, Source, Split, rows

REPO = "allenai/wildjailbreak"
REVISION = "5ddc12a7894f842b0619b8e1c7ee496b198af009"
TYPES: dict[str, Label] = {
    "vanilla_harmful": "unsafe",
    "adversarial_harmful": "unsafe",
    "vanilla_benign": "safe",
    "adversarial_benign": "safe",
}
TEXTS: dict[Split, tuple[str, ...]] = {"train": ("adversarial", "vanilla"), "test": ("adversarial",)}
"""Columns that hold the prompt, the first that is not blank."""


def _source(name: str, title: str, split: Split, labels: tuple[Label, ...], count: int) -> Source:
    file = HubFile("wildjailbreak", REPO, "train/train.tsv" if split == "train" else "eval/eval.tsv", REVISION)

    def prompts(split: Split) -> Iterator[Example]:
        for row in rows(file):
            label, prompt = row.label("data_type", TYPES), next(filter(None, map(row.text, TEXTS[split])), None)
            if label in labels and prompt:
                yield Example(f"{name}/{row.number}", prompt, KIND[label], name, row["data_type"], label=label)

    page = f"https://huggingface.co/datasets/{REPO}"
    return Source(name, title, page, "ODC-By-1.0", (split,), prompts, gated=True, rows=count)


SOURCE = _source(
    "wildjailbreak", "WildJailbreak: 133 thousand harmful requests and jailbreaks", "train", ("unsafe",), 132_778
)
BENIGN = _source(
    "wildjailbreak-benign", "WildJailbreak: 129 thousand benign look-alikes of both", "train", ("safe",), 128_781
)
EVAL = _source(
    "wildjailbreak-eval", "WildJailbreak: 2000 jailbreaks, 210 benign look-alikes", "test", ("unsafe", "safe"), 2210
)
