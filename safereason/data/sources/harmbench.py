"""HarmBench's text behaviors with the targets its attacks optimise for (Mazeika et al., arXiv 2402.04249)."""

from collections.abc import Iterator

from safereason.data.example import Example, context_opening
from safereason.data.fetch import File, fetch
from safereason.data.sources.base import Source, SourceRow, Split, published_rows
from safereason.runs.records import read_record

_DATA = "https://raw.githubusercontent.com/centerforaisafety/HarmBench/c0423b952435fcc8467108d8f25962dbae5b7de2/data"
BEHAVIORS = File(
    source="harmbench",
    name="harmbench_behaviors_text_all.csv",
    url=f"{_DATA}/behavior_datasets/harmbench_behaviors_text_all.csv",
    sha256="2745611872be3b2eab141e39bb328b8c1140dc3cd8d0a49da6174260d9ccbfb9",
    other_editions=("8d81accedd38eaaf8b760618622bb888417d1fd0c86eba65c427a16f1cbb4afc",),
)
TARGETS = File(
    source="harmbench",
    name="harmbench_targets_text.json",
    url=f"{_DATA}/optimizer_targets/harmbench_targets_text.json",
    sha256="dedcac1f8c0108ca79e36589ef9693d5af916ed70878e60fb2c4c20482872e3f",
)


def _read_harmbench_prompts(split: Split) -> Iterator[Example]:
    targets = read_record(fetch(TARGETS))
    for row in published_rows(BEHAVIORS):
        # A behavior without a target is kept, because only some attacks need one.
        yield _harmbench_example(row, targets.get(row["BehaviorID"]))


def _read_standard_behaviors(split: Split) -> Iterator[Example]:
    for example in _read_harmbench_prompts(split):
        if example.category and example.category.startswith("standard/"):
            yield example


def _harmbench_example(row: SourceRow, target: str | None) -> Example:
    """A behavior as an example, with the category `functional/semantic`."""
    behavior = row["Behavior"]
    context = row["ContextString"] or None
    prompt = behavior
    if context:
        # HarmBench's own test cases begin with the context too.
        prompt = f"{context_opening(context)}{behavior}"
    return Example(
        id=f"harmbench/{row['BehaviorID']}",
        prompt=prompt,
        kind="harmful",
        source="harmbench",
        category=f"{row['FunctionalCategory']}/{row['SemanticCategory']}",
        target=target,
        context=context,
    )


_PAGE = "https://github.com/centerforaisafety/HarmBench"
SOURCE = Source(
    "harmbench", "HarmBench: 400 harmful text behaviors", _PAGE, "MIT", ("test",), _read_harmbench_prompts, rows=400
)
# Many papers report on these alone: the others need a context or another judge.
STANDARD = Source(
    "harmbench-standard",
    "HarmBench: its 200 standard behaviors",
    _PAGE,
    "MIT",
    ("test",),
    _read_standard_behaviors,
    rows=200,
)
