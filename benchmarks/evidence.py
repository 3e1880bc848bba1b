"""Does RL teach a decision that SFT did not? The recipe `tars-evidence` over three seeds; writes docs/evidence.md.

    python benchmarks/evidence.py                 data, sft, rl and both evaluations for seeds 0, 1 and 2, then the page
    python benchmarks/evidence.py --seeds 0       one seed

What is finished already is not done again. The figure is the share of answers to prompts that training never saw that
are well-formed and decide rightly: a harmful request refused, an ordinary one answered.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from safereason.cli.errors import guarded
from safereason.evals.metrics import Figure, mean, share
from safereason.recipe.load import load
from safereason.runs.directory import read_manifest
from safereason.runs.records import read_records, write_text
from safereason.stages import data, rl, sft
from safereason.stages import eval as evaluation
from safereason.stages.base import Options

RECIPE = "tars-evidence"
MODELS = ("base", "sft", "rl")
DOCS = Path(__file__).resolve().parent.parent / "docs"
RESAMPLES = 10_000

Truths = dict[str, bool | None]
"""Whether an answer was well-formed and decided rightly, by case; None where its judge could not say."""


@dataclass(frozen=True)
class Seed:
    """What one seed measured."""

    seed: int
    truths: dict[str, dict[str, Truths]]
    """By model, then by kind of prompt."""
    formats: dict[str, list[bool]]
    """Whether each answer was well-formed, by model."""
    steps: list[dict[str, Any]]
    """RL's metrics, a record a step."""


def measure(seed: int, root: Path, with_base: bool) -> Seed:
    """Runs every stage of one seed; the base model, which no seed changes, is measured with one of them."""
    recipe = load(RECIPE, [f"seed={seed}"])
    options = Options(root=root, on_existing="resume")
    data.build_data(recipe, options)
    models = {"base": recipe.model} if with_base else {}
    models["sft"] = str(sft.train_sft(recipe, options).run)
    trained = rl.train_rl(recipe, options).run
    models["rl"] = str(trained)
    truths: dict[str, dict[str, Truths]] = {}
    formats: dict[str, list[bool]] = {}
    for label, model in models.items():
        measured = Options(root=root, on_existing="resume", model=model)
        parts = {
            "harmful": _read(evaluation.run_eval(recipe, measured, evaluation.EvalRequest("harmbench")).run, "refusal"),
            "harmless": _read(
                evaluation.run_eval(recipe, measured, evaluation.EvalRequest("xstest")).run, "compliance"
            ),
        }
        truths[label] = {kind: part[0] for kind, part in parts.items()}
        formats[label] = [well for part in parts.values() for well in part[1]]
    return Seed(seed, truths, formats, list(read_records(trained / "metrics.jsonl")))


def _read(run: Path, right: str) -> tuple[Truths, list[bool]]:
    labels = {v["id"]: v["label"] for v in read_records(run / "verdicts.jsonl")}
    truths: Truths = {}
    formats = []
    for completion in read_records(run / "completions.jsonl"):
        well, label = completion["well_formed"], labels[completion["id"]]
        truths[completion["id"]] = (None if label is None else label == right) if well else False
        formats.append(well)
    return truths, formats


def pooled(seeds: Sequence[Seed], model: str, kind: str | None = None) -> Figure:
    """The share over all seeds, with Wilson's interval on all answers."""
    kinds = (kind,) if kind else ("harmful", "harmless")
    return share(model, [t for s in seeds if model in s.truths for k in kinds for t in s.truths[model][k].values()])


def decided(seeds: Sequence[Seed], model: str) -> Figure:
    """The share of right decisions among the well-formed answers alone."""
    truths = [(t, w) for s in seeds for t, w in zip(_in_order(s, model), s.formats[model], strict=True)]
    return share(model, [t for t, well in truths if well])


def _in_order(seed: Seed, model: str) -> list[bool | None]:
    return [truth for part in seed.truths[model].values() for truth in part.values()]


def gain(seeds: Sequence[Seed], before: str, after: str) -> tuple[float, float, float]:
    """Difference of two models' shares with a 95 % paired bootstrap over prompts (each with all of its seeds)."""
    cases = sorted({(k, i) for s in seeds for k in s.truths[after] for i in s.truths[after][k]})
    rows = np.array([[_mean_over_seeds(seeds, model, k, i) for model in (before, after)] for k, i in cases])
    rows = rows[~np.isnan(rows).any(axis=1)]
    difference = rows[:, 1] - rows[:, 0]
    picks = np.random.default_rng(0).integers(len(difference), size=(RESAMPLES, len(difference)))
    low, high = np.quantile(difference[picks].mean(axis=1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def _mean_over_seeds(seeds: Sequence[Seed], model: str, kind: str, case: str) -> float:
    values = [t for s in seeds if (t := s.truths[model][kind].get(case)) is not None]
    return float(np.mean(values)) if values else float("nan")


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return "unscored"
    unscored = f", {figure.unscored} unscored" if figure.unscored else ""
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}] (n = {figure.n}{unscored})"


def _table(seeds: Sequence[Seed]) -> list[str]:
    lines = [
        "| seed | model | well-formed and right | harmful refused | harmless answered | well-formed |",
        "|---|---|---|---|---|---|",
    ]
    groups = [([s], str(s.seed)) for s in seeds] + ([(list(seeds), "all")] if len(seeds) > 1 else [])
    for group, name in groups:
        for model in [m for m in MODELS if any(m in s.truths for s in group)]:
            both, harmful, harmless = (pooled(group, model, k) for k in (None, "harmful", "harmless"))
            well = share("format", [w for s in group for w in s.formats.get(model, [])])
            lines.append(f"| {name} | {model} | {_cell(both)} | {_cell(harmful)} | {_cell(harmless)} | {_cell(well)} |")
    return lines


def _verdict(seeds: Sequence[Seed]) -> str:
    before, after = pooled(seeds, "sft"), pooled(seeds, "rl")
    difference, low, high = gain(seeds, "sft", "rl")
    apart = after.low is not None and before.high is not None and after.low > before.high
    how = "above SFT's, outside both 95 % intervals" if apart else "not clear of SFT's 95 % interval"
    return (
        f"Over {len(seeds)} seeds RL's share is {_cell(after)} against SFT's {_cell(before)}: {how}. "
        f"The paired difference is {difference:+.3f} [{low:+.3f}, {high:+.3f}] by bootstrap. Part of it is "
        f"form: among the well-formed answers alone RL decides rightly in {_cell(decided(seeds, 'rl'))}, SFT in "
        f"{_cell(decided(seeds, 'sft'))}."
    )


def draw_curves(seeds: Sequence[Seed], path: Path) -> None:
    """Reward, well-formed share, KL and entropy by step, one line a seed, with the mean in black."""
    names = (
        ("reward", "reward"),
        ("format", "well-formed share"),
        ("kl", "KL to SFT (nats)"),
        ("entropy", "entropy (nats)"),
    )
    canvas = Canvas(figsize=(10, 2.6), layout="constrained")
    for axes, (key, title) in zip(canvas.subplots(1, len(names)), names, strict=True):
        lines = [[row[key] for row in s.steps] for s in seeds]
        for s, line in zip(seeds, lines, strict=True):
            axes.plot(range(1, len(line) + 1), line, linewidth=1, alpha=0.6, label=f"seed {s.seed}")
        axes.plot(range(1, len(lines[0]) + 1), np.mean(lines, axis=0), color="black", linewidth=2, label="mean")
        axes.set(title=title, xlabel="RL step")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, metadata={"Date": None})


def _by_step(seeds: Sequence[Seed]) -> list[str]:
    lines = [
        "| step | reward | well-formed | safety | task | KL | entropy | tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rows in zip(*(s.steps for s in seeds), strict=True):
        cells = [
            mean(key, [row.get(key) for row in rows]).value
            for key in ("reward", "format", "safety", "task", "kl", "entropy", "completions/mean_length")
        ]
        lines.append(f"| {rows[0]['step']} | " + " | ".join("–" if c is None else f"{c:.3f}" for c in cells) + " |")
    return lines


def write_page(seeds: Sequence[Seed], root: Path) -> None:
    """docs/evidence.md with its picture."""
    draw_curves(seeds, DOCS / "assets" / "evidence.svg")
    manifest = read_manifest(next((root / "rl").glob(f"{RECIPE}--*"))) or {}
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    text = (Path(__file__).parent / "evidence.template.md").read_text(encoding="utf-8")
    fields = {
        "verdict": _verdict(seeds),
        "table": "\n".join(_table(seeds)),
        "steps": "\n".join(_by_step(seeds)),
        "versions": versions,
        "date": str(manifest.get("finished", ""))[:10],
    }
    for name, value in fields.items():
        text = text.replace(f"{{{{ {name} }}}}", value)
    write_text(DOCS / "evidence.md", text)


def main() -> None:
    """Runs what is missing, then writes the page and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (default 0,1,2)")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of the runs (default ./runs)")
    arguments = parser.parse_args()
    numbers = [int(seed) for seed in arguments.seeds.split(",")]
    seeds = [measure(number, arguments.root, with_base=number == numbers[0]) for number in numbers]
    write_page(seeds, arguments.root)
    difference, low, high = gain(seeds, "sft", "rl")
    figures = {model: pooled(seeds, model).__dict__ for model in MODELS}
    print(json.dumps({**figures, "gain": {"value": difference, "low": low, "high": high}}, indent=2))
    print(_verdict(seeds))


if __name__ == "__main__":
    sys.exit(guarded(main))
