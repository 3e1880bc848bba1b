"""UltraFeedback, binarized: requests to an assistant (Cui et al., arXiv 2310.01377).

The prompts are those of its `prefs` files. They have no labels; TARS takes them as harmless.
"""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import HubFile
from safereason.data.sources.base import Source, Split, published_rows

REPO = "HuggingFaceH4/ultrafeedback_binarized"
REVISION = "3949bf5f8c17c394422ccfab0c31ea9c20bdeb85"


def _read_ultrafeedback_prompts(split: Split) -> Iterator[Example]:
    file = HubFile("ultrafeedback", REPO, f"data/{split}_prefs-00000-of-00001.parquet", REVISION)
    # The other columns are pairs of long answers.
    for row in published_rows(file, columns=["prompt"]):
        prompt = row.text("prompt")
        if prompt:
            yield Example(f"ultrafeedback/{split}/{row.number}", prompt, "harmless", "ultrafeedback")


SOURCE = Source(
    name="ultrafeedback",
    title="UltraFeedback, binarized: 61 135 training and 2000 test prompts",
    page=f"https://huggingface.co/datasets/{REPO}",
    licence="MIT",
    serves=("train", "test"),
    prompts=_read_ultrafeedback_prompts,
    rows=63_135,
)
