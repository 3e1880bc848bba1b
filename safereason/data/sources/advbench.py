"""AdvBench: harmful behaviors (Zou et al., arXiv 2307.15043), the 50 that PAIR and TAP use and all 520.

The publisher gives categories for the 50 only (Mehrotra et al., arXiv 2312.02119).
"""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import File
from safereason.data.sources.base import Source, Split, published_rows

FILE = File(
    source="advbench",
    name="advbench_subset.csv",
    url="https://raw.githubusercontent.com/RICommunity/TAP/main/data/advbench_subset.csv",
    sha256="66af8279f7690e1b83f8edeeeef0ff5c9da099e994ef54ecc14bdaf5fa759de2",
)
FULL_FILE = File(
    source="advbench",
    name="harmful_behaviors.csv",
    url="https://raw.githubusercontent.com/llm-attacks/llm-attacks/098262edf85f807224e70ecd87b9d83716bf6b73/data/"
    "advbench/harmful_behaviors.csv",
    sha256="6cd1a5c63c07610d7eb67307772ee5606017ee950b5770ab288a2c487489d3e1",
)


# AdvBench has no splits. Attacks are measured on it, and some defences train on it.
def _read_advbench_subset(split: Split) -> Iterator[Example]:
    for row in published_rows(FILE):
        # The row's number among all 520, so that results on the 50 can be matched with results on all.
        example_id = f"advbench/{row['Original index']}"
        yield Example(example_id, row["goal"], "harmful", "advbench", row["category"], target=row["target"])


def _read_advbench_full(split: Split) -> Iterator[Example]:
    for row in published_rows(FULL_FILE):
        yield Example(f"advbench-full/{row.number}", row["goal"], "harmful", "advbench-full", target=row["target"])


SOURCE = Source(
    name="advbench",
    title="AdvBench: the 50 harmful behaviors that PAIR and TAP use",
    page="https://github.com/RICommunity/TAP",
    licence="MIT",
    serves=("train", "test"),
    prompts=_read_advbench_subset,
    rows=50,
)
FULL = Source(
    name="advbench-full",
    title="AdvBench: all 520 harmful behaviors",
    page="https://github.com/llm-attacks/llm-attacks",
    licence="MIT",
    serves=("train", "test"),
    prompts=_read_advbench_full,
    rows=520,
)
