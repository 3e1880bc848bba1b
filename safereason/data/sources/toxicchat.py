"""ToxicChat: requests of users of a chat demo, labelled toxic or not (Lin et al., arXiv 2310.17389), in two releases.

Toxic is unsafe. The release of January 2024 corrects labels of that of November 2023.
"""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import HubFile
from safereason.data.sources.base import KIND, ExampleReader, Source, Split, published_rows

REPO = "lmsys/toxic-chat"
REVISION = "29df8e4dba60e1f4af4b4075c0705c5b313548a8"


def _toxicchat_reader(name: str, release: str) -> ExampleReader:
    def prompts(split: Split) -> Iterator[Example]:
        for row in published_rows(
            HubFile("toxicchat", REPO, f"data/{release}/toxic-chat_annotation_{split}.csv", REVISION)
        ):
            # The column `jailbreaking` is about the form of a prompt and not about harm, so it is not read.
            label = row.label("toxicity", {"0": "safe", "1": "unsafe"})
            prompt = row.text("user_input")
            if label and prompt:
                yield Example(f"{name}/{split}/{row.number}", prompt, KIND[label], name, label=label)

    return prompts


def _toxicchat_source(name: str, title: str, release: str) -> Source:
    page = f"https://huggingface.co/datasets/{REPO}"
    return Source(name, title, page, "CC-BY-NC-4.0", ("train", "test"), _toxicchat_reader(name, release), rows=10_165)


SOURCE = _toxicchat_source(
    "toxicchat", "ToxicChat of January 2024: 10 165 real user prompts, half of them for tests", "0124"
)
NOVEMBER = _toxicchat_source(
    "toxicchat1123", "ToxicChat of November 2023: the same prompts with its earlier labels", "1123"
)
