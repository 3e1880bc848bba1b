"""JailbreakBench: 100 harmful behaviors of ten categories, and as many benign ones (Chao et al., arXiv 2404.01318)."""

from collections.abc import Iterator

from safereason.data.example import Example, PromptKind
from safereason.data.fetch import File
from safereason.data.sources.base import Source, Split, published_rows

_HUB = "https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors"
_DATA = f"{_HUB}/resolve/886acc352a31533ffbcf4ef22c744658688086fc/data"
FILE = File(
    source="jailbreakbench",
    name="harmful-behaviors.csv",
    url=f"{_DATA}/harmful-behaviors.csv",
    sha256="4a8ec6832056b631eb092dccc60d37a61c3d441268268888b3d006288afeffa1",
    # The same rows without a name for the first column.
    other_editions=("45e9a8923b28f547bb372fbaa9af7df8b38c818a80ae50c3bab97704197ff516",),
)
BENIGN_FILE = File(
    source="jailbreakbench",
    name="benign-behaviors.csv",
    url=f"{_DATA}/benign-behaviors.csv",
    sha256="3cda234d21a991fa309bbfea4b6d9dae31ccdf8e9d452424b6a983e4fdc33468",
)


def _jailbreakbench_source(name: str, title: str, file: File, kind: PromptKind) -> Source:
    def prompts(split: Split) -> Iterator[Example]:
        for row in published_rows(file):
            # The benign file has targets too, but no attack is run on benign behaviors.
            target = row["Target"] if kind == "harmful" else None
            # The publisher counts from 0.
            yield Example(f"{name}/{row.number - 1}", row["Goal"], kind, name, row["Category"], target=target)

    return Source(name, title, _HUB, "MIT", ("test",), prompts, rows=100)


SOURCE = _jailbreakbench_source("jailbreakbench", "JailbreakBench: 100 harmful behaviors", FILE, "harmful")
BENIGN = _jailbreakbench_source(
    "jailbreakbench-benign", "JailbreakBench: 100 benign ones on the same topics", BENIGN_FILE, "harmless"
)
