"""Evidence on RSafe's training: the recipe `rsafe-evidence` with every stage, and the page docs/guard-evidence.md.

    python benchmarks/guard_evidence.py           about an hour on two cores; finished runs are not repeated

The figure is F1 of `unsafe`, strict (a row without a verdict is a wrong one), on rows that training never saw.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safereason.cli.errors import guarded
from safereason.data import sources
from safereason.data.example import read_examples
from safereason.data.overlap import compared_text
from safereason.data.text_index import Index
from safereason.recipe.load import load
from safereason.runs.directory import read_manifest
from safereason.runs.records import read_json, read_records, write_text
from safereason.stages import pipeline
from safereason.stages.base import Options

RECIPE = "rsafe-evidence"
MODELS = {"base": "base", "guard sft": "after SFT", "guard rl": "after RL"}
DOCS = Path(__file__).resolve().parent.parent / "docs"
RESAMPLES = 10_000

Calls = NDArray[np.float64]
"""Of each row: whether it is unsafe, and whether the guard calls it so; [n, 2]."""


def calls_of(run: Path) -> Calls:
    """A guard's verdicts, in the order of the rows' sets and ids; a missing verdict counts as a wrong one."""
    rows = sorted(read_records(run / "predictions.jsonl"), key=lambda row: (row["set"], row["id"]))
    calls = []
    for row in rows:
        is_unsafe = row["expected"] == "unsafe"
        is_called_unsafe = row["label"] == "unsafe"
        if not row["label"]:
            is_called_unsafe = not is_unsafe
        calls.append([is_unsafe, is_called_unsafe])
    return np.array(calls, dtype=np.float64)


def f1(rows: Calls) -> float:
    """F1 of `unsafe`."""
    hits = float((rows[:, 0] * rows[:, 1]).sum())
    return 2 * hits / float(rows.sum())


def f1_always(rows: Calls) -> float:
    """F1 of calling every row unsafe."""
    unsafe = float(rows[:, 0].sum())
    return 2 * unsafe / (unsafe + len(rows))


def difference(left: Calls, right: Calls, of: Callable[[Calls], float]) -> tuple[float, ...]:
    """f1(left) - of(right) on the same rows, with a 95 % paired bootstrap."""
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(RESAMPLES):
        picks = rng.integers(len(left), size=len(left))
        differences.append(f1(left[picks]) - of(right[picks]))
    low, high = np.quantile(differences, [0.025, 0.975])
    return f1(left) - of(right), float(low), float(high)


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None or figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def table(runs: dict[str, Path]) -> list[str]:
    """The figures by set and model."""
    columns = ("f1", "f1_always_unsafe", "f1_always_safe", "precision", "recall", "auroc", "unparsed")
    header = ("set", "rows (unsafe)", "model", *(column.replace("_", " ") for column in columns))
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    metrics = {label: read_json(runs[f"eval guard of {model}"] / "metrics.json") for model, label in MODELS.items()}
    for name, counts in next(iter(metrics.values()))["sets"].items():
        for label, metrics_of_model in metrics.items():
            figures = {figure["name"]: figure for figure in metrics_of_model["figures"] if figure["group"] == name}
            cells = " | ".join(_cell(figures.get(column)) for column in columns)
            lines.append(f"| {name} | {sum(counts.values())} ({counts['unsafe']}) | {label} | {cells} |")
    return lines


def _difference_text(estimate: tuple[float, ...]) -> str:
    value, low, high = estimate
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def overlapping(data: Path, predictions: Path) -> NDArray[np.bool_]:
    """Whether a training row is nearly the same as a test row, or shares 13 words; in the order of `calls_of`, [n]."""
    trained = Index(0.8, 13)
    for name in ("train", "traces", "validation"):
        for row in read_examples(data / f"{name}.parquet"):
            trained.add(row.id, compared_text(row))
    rows = sorted(read_records(predictions / "predictions.jsonl"), key=lambda row: (row["set"], row["id"]))
    texts_by_set = {}
    for name in {row["set"] for row in rows}:
        texts_by_set[name] = {example.id: compared_text(example) for example in sources.get(name).load("test")}
    return np.array([trained.find(texts_by_set[row["set"]][row["id"]]) is not None for row in rows])


def fields(runs: dict[str, Path]) -> dict[str, str]:
    """The values of the template's fields."""
    rows = {model: calls_of(runs[f"eval guard of {model}"]) for model in MODELS}
    trained = rows["guard rl"]
    shared = overlapping(runs["data"], runs["eval guard of guard rl"])
    manifest = read_manifest(runs["guard rl"]) or {}
    validations = ["| step | F1 | unparsed | says unsafe | tokens |", "|---|---|---|---|---|"]
    for record in read_records(runs["guard rl"] / "validation.jsonl"):
        cells = [f"{record[key]:.3f}" for key in ("f1", "unparsed", "says_unsafe")]
        validations.append(f"| {record['step']} | {' | '.join(cells)} | {record['mean_tokens']:.1f} |")
    return {
        "n": str(len(trained)),
        "f1": f"{f1(trained):.3f}",
        "f1_sft": f"{f1(rows['guard sft']):.3f}",
        "f1_base": f"{f1(rows['base']):.3f}",
        "f1_always": f"{f1_always(trained):.3f}",
        "over_always": _difference_text(difference(trained, trained, f1_always)),
        "over_sft": _difference_text(difference(trained, rows["guard sft"], f1)),
        "shared": str(int(shared.sum())),
        "f1_apart": f"{f1(trained[~shared]):.3f}",
        "f1_sft_apart": f"{f1(rows['guard sft'][~shared]):.3f}",
        "table": "\n".join(table(runs)),
        "looks": "\n".join(validations),
        "kept": json.dumps(read_json(runs["guard rl"] / "metrics.json")["kept"]),
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items()),
        "date": str(manifest.get("finished", ""))[:10],
    }


def main() -> None:
    """Runs the missing steps, then writes the page and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of the runs (default ./runs)")
    root = parser.parse_args().root
    done = pipeline.run_pipeline(load(RECIPE), Options(root=root, on_existing="resume"))
    values = fields({step: Path(path) for step, path in done.metrics["runs"].items()})
    text = (Path(__file__).parent / "guard_evidence.template.md").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"{{{{ {name} }}}}", value)
    write_text(DOCS / "guard-evidence.md", text)
    figures = {key: value for key, value in values.items() if key.startswith(("f1", "over", "n"))}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    sys.exit(guarded(main))
