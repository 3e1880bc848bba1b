"""PKU-SafeRLHF: prompts with two answers each, both labelled safe or not (Ji et al., arXiv 2406.15513).

Each answer is one example, 16 422 of them for tests. The publisher labels answers and not prompts, so the kind is
`ambiguous`.
"""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import HubFile
from safereason.data.sources.base import Source, Split, published_rows

REPO = "PKU-Alignment/PKU-SafeRLHF"
REVISION = "9421ffafec3fa40a1f1a7d567b4d525079477ecb"
# The publisher's default configuration is the rows of these three.
MODELS = ("Alpaca-7B", "Alpaca2-7B", "Alpaca3-8B")
"""The models that wrote the answers."""


def _read_pku_saferlhf_responses(split: Split) -> Iterator[Example]:
    for model in MODELS:
        yield from _read_responses_of_model(model, split)


def _read_responses_of_model(model: str, split: Split) -> Iterator[Example]:
    for row in published_rows(HubFile("pku-saferlhf", REPO, f"data/{model}/{split}.jsonl", REVISION)):
        prompt = row.text("prompt")
        for n in (0, 1):
            # Each answer has a label of its own; `better_response_id` and `safer_response_id` compare the two.
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
    prompts=_read_pku_saferlhf_responses,
    rows=82_118,
)
