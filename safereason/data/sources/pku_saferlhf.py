"""PKU-SafeRLHF: prompts with two answers each, both labelled safe or not (Ji et al., arXiv 2406.15513).

One example an answer, 16 422 for tests. The publisher labels answers and not prompts, so that the kind is `ambiguous`.
"""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import HubFile
from safereason.data.sources.base import Source, Split, rows

REPO = "PKU-Alignment/PKU-SafeRLHF"
REVISION = "9421ffafec3fa40a1f1a7d567b4d525079477ecb"
MODELS = ("Alpaca-7B", "Alpaca2-7B", "Alpaca3-8B")
"""Who answered; the default configuration is the rows of all three."""


def _responses(split: Split) -> Iterator[Example]:
    for model in MODELS:
        yield from _of(model, split)


def _of(model: str, split: Split) -> Iterator[Example]:
    for row in rows(HubFile("pku-saferlhf", REPO, f"data/{model}/{split}.jsonl", REVISION)):
        prompt = row.text("prompt")
        for n in (0, 1):
            label = row.label(f"is_response_{n}_safe", {True: "safe", False: "unsafe"})
            if prompt and label:
                yield Example(
                    id=f"pku-saferlhf/{split}/{model}/{row.number}/{n}",
                    prompt=prompt,
                    kind="ambiguous",
                    source="pku-saferlhf",
                    category=row.chosen(f"response_{n}_harm_category"),
                    response=row[f"response_{n}"],
                    label=label,
                )


SOURCE = Source(
    name="pku-saferlhf",
    title="PKU-SafeRLHF: 82 118 prompts with two labelled answers each, by 19 categories of harm",
    page=f"https://huggingface.co/datasets/{REPO}",
    licence="CC-BY-NC-4.0",
    serves=("train", "test"),
    prompts=_responses,
    rows=82_118,
)
