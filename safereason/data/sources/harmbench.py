"""HarmBench's text behaviors with the targets its attacks optimise for (Mazeika et al., arXiv 2402.04249)."""

from safereason.data.example import Example, opening
from safereason.data.fetch import File, fetch
from safereason.data.sources.base import Row, Source, Split, rows
from safereason.runs.records import read_json

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


def _prompts(split: Split) -> list[Example]:
    targets = read_json(fetch(TARGETS))
    return [_example(row, targets.get(row["BehaviorID"])) for row in rows(BEHAVIORS)]


def _standard(split: Split) -> list[Example]:
    return [example for example in _prompts(split) if (example.category or "").startswith("standard/")]


def _example(row: Row, target: str | None) -> Example:
    """Its category is `functional/semantic`; a contextual behavior's prompt begins with its context, as HarmBench's."""
    context, behavior = row["ContextString"] or None, row["Behavior"]
    return Example(
        id=f"harmbench/{row['BehaviorID']}",
        prompt=f"{opening(context)}{behavior}" if context else behavior,
        kind="harmful",
        source="harmbench",
        category=f"{row['FunctionalCategory']}/{row['SemanticCategory']}",
        target=target,
        context=context,
    )


_PAGE = "https://github.com/centerforaisafety/HarmBench"
SOURCE = Source("harmbench", "HarmBench: 400 harmful text behaviors", _PAGE, "MIT", ("test",), _prompts, rows=400)
STANDARD = Source(
    "harmbench-standard", "HarmBench: its 200 standard behaviors", _PAGE, "MIT", ("test",), _standard, rows=200
)
