"""Evidence that RL teaches a decision that SFT did not: `tars-evidence` over three seeds, as docs/evidence.md has it.

    python benchmarks/evidence.py                 data, sft, rl and both evaluations for seeds 0, 1 and 2, then the page
    python benchmarks/evidence.py --seeds 0       one seed

Finished runs are not repeated. The figure is the share of answers to prompts that training never saw that are
well-formed and decide rightly: a harmful request refused, an ordinary one answered.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from safereason.cli.errors import guarded
from safereason.engines.spec import ModelSpec
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
    """The measurements of one seed."""

    seed: int
    truths: dict[str, dict[str, Truths]]
    """By model, then by kind of prompt."""
    formats: dict[str, list[bool]]
    """Whether each answer was well-formed, by model."""
    steps: list[dict[str, Any]]
    """RL's metrics, a record an optimizer step."""


def is_in(seed: Seed, model: str) -> bool:
    """Whether the seed measured this model; the base model is measured with one seed alone."""
    return model in seed.truths


def measure(seed: int, root: Path, with_base: bool) -> Seed:
    """Runs every stage of one seed; the base model, which no seed changes, is measured with one of them."""
    recipe = load(RECIPE, [f"seed={seed}"])
    options = Options(root=root, on_existing="resume")
    data.build_data(recipe, options)
    models = {}
    if with_base:
        models["base"] = recipe.model
    models["sft"] = str(sft.train_sft(recipe, options).run)
    trained = rl.train_rl(recipe, options).run
    models["rl"] = str(trained)
    truths: dict[str, dict[str, Truths]] = {}
    formats: dict[str, list[bool]] = {}
    for label, model in models.items():
        measured = Options(root=root, on_existing="resume", model=ModelSpec.parse(model))
        truths[label] = {}
        formats[label] = []
        for kind, name, right in (("harmful", "harmbench", "refusal"), ("harmless", "xstest", "compliance")):
            run = evaluation.run_eval(recipe, measured, evaluation.EvalRequest(name)).run
            truths[label][kind], formats_of_kind = _read_answers(run, right)
            formats[label] += formats_of_kind
    return Seed(seed, truths, formats, list(read_records(trained / "metrics.jsonl")))


def _read_answers(run: Path, right: str) -> tuple[Truths, list[bool]]:
    """Whether each answer of an evaluation is well-formed with the right label, and whether it is well-formed."""
    labels = {verdict["id"]: verdict["label"] for verdict in read_records(run / "verdicts.jsonl")}
    truths: Truths = {}
    formats = []
    for completion in read_records(run / "completions.jsonl"):
        case = completion["id"]
        label = labels[case]
        if not completion["well_formed"]:
            truths[case] = False
        elif label is None:
            truths[case] = None
        else:
            truths[case] = label == right
        formats.append(completion["well_formed"])
    return truths, formats


def pooled(seeds: Sequence[Seed], model: str, kind: str | None = None) -> Figure:
    """The share over all seeds, with Wilson's interval on all answers."""
    kinds = (kind,) if kind else ("harmful", "harmless")
    truths: list[bool | None] = []
    for seed in seeds:
        if is_in(seed, model):
            for chosen_kind in kinds:
                truths += seed.truths[model][chosen_kind].values()
    return share(model, truths)


def decided(seeds: Sequence[Seed], model: str) -> Figure:
    """The share of right decisions among the well-formed answers alone."""
    truths: list[bool | None] = []
    for seed in seeds:
        truths_by_kind = seed.truths[model].values()
        in_order = chain.from_iterable(truths_of_kind.values() for truths_of_kind in truths_by_kind)
        truths += compress(in_order, seed.formats[model])
    return share(model, truths)


def gain(seeds: Sequence[Seed], before: str, after: str) -> tuple[float, float, float]:
    """Difference of two models' shares with a 95 % paired bootstrap over prompts (each with all of its seeds)."""
    cases = set()
    for seed in seeds:
        for kind, truths in seed.truths[after].items():
            cases.update((kind, case) for case in truths)
    means = []
    for kind, case in sorted(cases):
        means.append([_mean_over_seeds(seeds, model, kind, case) for model in (before, after)])
    rows = np.array(means)
    rows = rows[~np.isnan(rows).any(axis=1)]
    difference = rows[:, 1] - rows[:, 0]
    picks = np.random.default_rng(0).integers(len(difference), size=(RESAMPLES, len(difference)))
    low, high = np.quantile(difference[picks].mean(axis=1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def _mean_over_seeds(seeds: Sequence[Seed], model: str, kind: str, case: str) -> float:
    """The mean over the seeds that have a truth for the case; NaN where none has."""
    truths = [seed.truths[model][kind].get(case) for seed in seeds]
    known = [truth for truth in truths if truth is not None]
    if not known:
        return float("nan")
    return float(np.mean(known))


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return "unscored"
    unscored = ""
    if figure.unscored:
        unscored = f", {figure.unscored} unscored"
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}] (n = {figure.n}{unscored})"


def _table(seeds: Sequence[Seed]) -> list[str]:
    lines = [
        "| seed | model | well-formed and right | harmful refused | harmless answered | well-formed |",
        "|---|---|---|---|---|---|",
    ]
    groups = {str(seed.seed): [seed] for seed in seeds}
    if len(seeds) > 1:
        groups["all"] = list(seeds)
    for name, group in groups.items():
        for model in MODELS:
            measured = [seed for seed in group if is_in(seed, model)]
            if not measured:
                continue
            formats = list(chain.from_iterable(seed.formats[model] for seed in measured))
            figures = [pooled(measured, model, kind) for kind in (None, "harmful", "harmless")]
            figures.append(share("format", formats))
            lines.append(f"| {name} | {model} | {' | '.join(map(_cell, figures))} |")
    return lines


def _verdict(seeds: Sequence[Seed]) -> str:
    before = pooled(seeds, "sft")
    after = pooled(seeds, "rl")
    difference, low, high = gain(seeds, "sft", "rl")
    how = "not clear of SFT's 95 % interval"
    if after.low is not None and before.high is not None and after.low > before.high:
        how = "above SFT's, outside both 95 % intervals"
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
        lines = []
        for seed in seeds:
            line = [record[key] for record in seed.steps]
            axes.plot(range(1, len(line) + 1), line, linewidth=1, alpha=0.6, label=f"seed {seed.seed}")
            lines.append(line)
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
    keys = ("reward", "format", "safety", "task", "kl", "entropy", "completions/mean_length")
    for records in zip(*(seed.steps for seed in seeds), strict=True):
        cells = []
        for key in keys:
            value = mean(key, [record.get(key) for record in records]).value
            cells.append("–" if value is None else f"{value:.3f}")
        lines.append(f"| {records[0]['step']} | {' | '.join(cells)} |")
    return lines


def write_page(seeds: Sequence[Seed], root: Path) -> None:
    """Writes docs/evidence.md and its picture."""
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
    """Runs the missing stages, then writes the page and prints the figures."""
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
