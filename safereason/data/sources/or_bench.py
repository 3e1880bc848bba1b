"""OR-Bench: prompts that look toxic and are not, and some that are (Cui et al., arXiv 2405.20947).

`or-bench` is its 80 thousand prompts without the hard ones, as TARS trains on them. Nearly all hard prompts are in both
files.
"""

from collections.abc import Iterator

from safereason.data.example import Example, PromptKind
from safereason.data.fetch import HubFile
from safereason.data.sampling import fold
from safereason.data.sources.base import ExampleReader, Source, Split, published_rows
from safereason.text.verdict import Label

REPO = "bench-llm/or-bench"
REVISION = "e36d8b80e81837c8a8f264bbb2a49f1b32c7e272"


def _read_or_bench_file(name: str, file: str, kind: PromptKind, label: Label) -> Iterator[Example]:
    for row in published_rows(HubFile("or-bench", REPO, file, REVISION)):
        if prompt := row.text("prompt"):
            yield Example(f"{name}/{row.number}", prompt, kind, name, row.text("category"), label=label)


# These prompts look toxic and are not. So their kind is ambiguous for a reward, and their label is safe for a guard.
def _read_or_bench_hard(split: Split) -> Iterator[Example]:
    return _read_or_bench_file("or-bench-hard", "or-bench-hard-1k.csv", "ambiguous", "safe")


def _read_or_bench_toxic(split: Split) -> Iterator[Example]:
    return _read_or_bench_file("or-bench-toxic", "or-bench-toxic.csv", "harmful", "unsafe")


def _read_or_bench_without_hard(split: Split) -> Iterator[Example]:
    # Rows of the two files have no common id, so they are matched by their text.
    hard_prompts = {fold(example.prompt) for example in _read_or_bench_hard(split)}
    for example in _read_or_bench_file("or-bench", "or-bench-80k.csv", "ambiguous", "safe"):
        if fold(example.prompt) not in hard_prompts:
            yield example


def _or_bench_source(name: str, title: str, serves: tuple[Split, ...], prompts: ExampleReader, count: int) -> Source:
    return Source(name, title, f"https://huggingface.co/datasets/{REPO}", "CC-BY-4.0", serves, prompts, rows=count)


SOURCE = _or_bench_source(
    "or-bench", "OR-Bench: 79 thousand safe prompts that look toxic", ("train",), _read_or_bench_without_hard, 80_359
)
HARD = _or_bench_source(
    "or-bench-hard", "OR-Bench: the 1319 that models refuse most", ("train", "test"), _read_or_bench_hard, 1319
)
TOXIC = _or_bench_source("or-bench-toxic", "OR-Bench: 655 toxic prompts", ("train", "test"), _read_or_bench_toxic, 655)
