"""JailbreakBench's harmful behaviors, ten of each of ten categories (Chao et al., arXiv 2404.01318)."""

from safereason.data.example import Example
from safereason.data.fetch import File
from safereason.data.sources.base import Source, Split, rows

_HUB = "https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors"
FILE = File(
    source="jailbreakbench",
    name="harmful-behaviors.csv",
    url=f"{_HUB}/resolve/886acc352a31533ffbcf4ef22c744658688086fc/data/harmful-behaviors.csv",
    sha256="4a8ec6832056b631eb092dccc60d37a61c3d441268268888b3d006288afeffa1",
    # The same rows without a name for the first column.
    other_editions=("45e9a8923b28f547bb372fbaa9af7df8b38c818a80ae50c3bab97704197ff516",),
)


def _prompts(split: Split) -> list[Example]:
    return [
        Example(
            id=f"jailbreakbench/{row.number - 1}",
            prompt=row["Goal"],
            kind="harmful",
            source="jailbreakbench",
            category=row["Category"],
            target=row["Target"],
        )
        for row in rows(FILE)
    ]


SOURCE = Source("jailbreakbench", "JailbreakBench: 100 harmful behaviors", _HUB, "MIT", ("test",), _prompts)
