"""OR-Bench: prompts that look toxic and are not, and some that are (Cui et al., arXiv 2405.20947).

`or-bench` is its 80 thousand without the hard ones, as TARS trains on them; nearly all of the hard ones are in both.
"""

from collections.abc import Iterator

from safereason.data.draw import fold
from safereason.data.example import Example, Kind, Label
from safereason.data.fetch import HubFile
from safereason.data.sources.base import Reader, Source, Split, rows

REPO = "bench-llm/or-bench"
REVISION = "e36d8b80e81837c8a8f264bbb2a49f1b32c7e272"


def _read(name: str, file: str, kind: Kind, label: Label) -> Iterator[Example]:
    for row in rows(HubFile("or-bench", REPO, file, REVISION)):
        if prompt := row.text("prompt"):
            yield Example(f"{name}/{row.number}", prompt, kind, name, row.text("category"), label=label)


def _hard(split: Split) -> Iterator[Example]:
    return _read("or-bench-hard", "or-bench-hard-1k.csv", "ambiguous", "safe")


def _toxic(split: Split) -> Iterator[Example]:
    return _read("or-bench-toxic", "or-bench-toxic.csv", "harmful", "unsafe")


def _easier(split: Split) -> Iterator[Example]:
    hard = {fold(example.prompt) for example in _hard(split)}
    everything = _read("or-bench", "or-bench-80k.csv", "ambiguous", "safe")
    yield from (example for example in everything if fold(example.prompt) not in hard)


def _source(name: str, title: str, serves: tuple[Split, ...], prompts: Reader, count: int) -> Source:
    return Source(name, title, f"https://huggingface.co/datasets/{REPO}", "CC-BY-4.0", serves, prompts, rows=count)


SOURCE = _source("or-bench", "OR-Bench: 79 thousand safe prompts that look toxic", ("train",), _easier, 80_359)
HARD = _source("or-bench-hard", "OR-Bench: the 1319 that models refuse most", ("train", "test"), _hard, 1319)
TOXIC = _source("or-bench-toxic", "OR-Bench: 655 toxic prompts", ("train", "test"), _toxic, 655)
