"""OR-Bench: prompts that look toxic and are not, and some that are (Cui et al., arXiv 2405.20947).

`or-bench` is its 80 thousand without the hard ones, as TARS trains on them; nearly all of the hard ones are in both.
"""

from safereason.data.draw import fold
from safereason.data.example import Example, Kind, Label
from safereason.data.fetch import HubFile
from safereason.data.sources.base import Source, Split, rows

REPO = "bench-llm/or-bench"
REVISION = "e36d8b80e81837c8a8f264bbb2a49f1b32c7e272"


def _read(name: str, file: str, kind: Kind, label: Label) -> list[Example]:
    return [
        Example(f"{name}/{row.number}", prompt, kind, name, row.text("category"), label=label)
        for row in rows(HubFile("or-bench", REPO, file, REVISION))
        if (prompt := row.text("prompt"))
    ]


def _hard(split: Split) -> list[Example]:
    return _read("or-bench-hard", "or-bench-hard-1k.csv", "ambiguous", "safe")


def _toxic(split: Split) -> list[Example]:
    return _read("or-bench-toxic", "or-bench-toxic.csv", "harmful", "unsafe")


def _easier(split: Split) -> list[Example]:
    hard = {fold(example.prompt) for example in _hard(split)}
    return [e for e in _read("or-bench", "or-bench-80k.csv", "ambiguous", "safe") if fold(e.prompt) not in hard]


_PAGE, _LICENCE = f"https://huggingface.co/datasets/{REPO}", "CC-BY-4.0"
SOURCE = Source("or-bench", "OR-Bench: 79 thousand safe prompts that look toxic", _PAGE, _LICENCE, ("train",), _easier)
HARD = Source("or-bench-hard", "OR-Bench: the 1319 that models refuse most", _PAGE, _LICENCE, ("train", "test"), _hard)
TOXIC = Source("or-bench-toxic", "OR-Bench: 655 toxic prompts", _PAGE, _LICENCE, ("train", "test"), _toxic)
