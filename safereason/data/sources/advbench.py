"""The 50 behaviors of AdvBench that PAIR and TAP use (Zou et al., arXiv 2307.15043; Mehrotra et al., 2312.02119)."""

from safereason.data.example import Example
from safereason.data.fetch import File
from safereason.data.sources.base import Source, Split, rows

FILE = File(
    source="advbench",
    name="advbench_subset.csv",
    url="https://raw.githubusercontent.com/RICommunity/TAP/main/data/advbench_subset.csv",
    sha256="66af8279f7690e1b83f8edeeeef0ff5c9da099e994ef54ecc14bdaf5fa759de2",
)


def _prompts(split: Split) -> list[Example]:
    return [
        Example(
            id=f"advbench/{row['Original index']}",
            prompt=row["goal"],
            kind="harmful",
            source="advbench",
            category=row["category"],
            target=row["target"],
        )
        for row in rows(FILE)
    ]


SOURCE = Source(
    name="advbench",
    title="AdvBench: the 50 harmful behaviors that PAIR and TAP use",
    page="https://github.com/RICommunity/TAP",
    licence="MIT",
    serves=("train", "test"),
    prompts=_prompts,
)
