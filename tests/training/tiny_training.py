"""A tiny recipe that one process and several train alike: its inputs, its runs, and their comparison."""

import json
import shutil
from pathlib import Path

import micro
import micro_guard
import pytest

from safereason.engines.spec import ModelSpec
from safereason.recipe.load import load
from safereason.runs.records import read_json, read_records
from safereason.stages import data, rl, sft
from safereason.stages.base import Options

TWO = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
use_cpu: true
num_processes: 2
num_machines: 1
main_process_port: 0
"""
"""Two CPU processes: what accelerate calls MULTI_CPU, it starts through MPI."""
RECIPE = """
model: {model}
data: {{mix: tars, prompts: 16, harmful_ratio: 0.5, harmful: {sample}, harmless: {sample}, ambiguous: {sample},
  traces: [{{source: sample, prompts: 16}}]}}
sft: {{epochs: 1, learning_rate: 1.0e-3, batch_size: 4, precision: fp32, save_steps: 2}}
rl: {{epochs: 1, learning_rate: 1.0e-3, prompts_per_step: 3, rollouts_per_prompt: 4, micro_batch_size: 6, kl_coef: 0.1,
  max_steps: 4, max_prompt_tokens: 256, sampling: {{max_new_tokens: 8}}, precision: fp32, save_steps: 2,
  reward: {{name: tars, safety: "reward-model:{judge}", task: "reward-model:{judge}", require_format: false}}}}
"""
"""Six rollouts a process: two processes share the second prompt of a step."""
GUARD = """
model: {model}
data: {{mix: rsafe, rows_per_label: 6, sources: [{rows}], validation_rows_per_label: 2}}
guard:
  policy: {policy}
  reasoning: false
  sft: {{epochs: 1, learning_rate: 1.0e-3, batch_size: 4, max_tokens: 2048, precision: fp32}}
  train: {{epochs: 1, max_steps: 4, learning_rate: 1.0e-3, prompts_per_step: 3, rollouts_per_prompt: 4, kl_coef: 0.1,
    micro_batch_size: 6, max_prompt_tokens: 2048, sampling: {{max_new_tokens: 20}}, reward: {{name: rsafe}},
    precision: fp32}}
  validation: {{every_steps: 2}}
  sampling: {{temperature: 0.0, max_new_tokens: 20}}
"""


def prepare(folder: Path) -> Path:
    """Writes recipes, models, built data and accelerate's config to a folder."""
    model = micro.save_model(folder / "model")
    judge = micro.save_classifier(folder / "judge")
    (folder / "tiny.yaml").write_text(RECIPE.format(model=model, judge=judge, sample="[{source: sample, prompts: 40}]"))
    (folder / "two.yaml").write_text(TWO)
    rows = []
    for label in ("safe", "unsafe"):
        for i in range(10):
            row = {"id": f"mine/{label}-{i}", "prompt": f"{label} thing {i}?", "kind": "harmless", "source": "mine"}
            rows.append(json.dumps({**row, "label": label}) + "\n")
    (folder / "rows.jsonl").write_text("".join(rows))
    (folder / "rules.yaml").write_text(micro_guard.POLICY)
    guard = micro_guard.save_guard(folder / "guard")
    (folder / "guard.yaml").write_text(
        GUARD.format(model=guard, rows=folder / "rows.jsonl", policy=folder / "rules.yaml")
    )
    data.build_data(load(str(folder / "tiny.yaml")), Options(root=folder / "runs"))
    return folder


def train_alone(inputs: Path, root: Path) -> Path:
    """The runs of one process."""
    shutil.copytree(inputs / "runs" / "data", root / "data")
    for train in (sft.train_sft, rl.train_rl):
        train(load(str(inputs / "tiny.yaml")), Options(root=root, model=ModelSpec.parse(str(inputs / "model"))))
    return root


def arguments(inputs: Path, stage: str, root: Path, *more: object) -> list[str]:
    """The command line of a training in a root of its own, where the data is built."""
    shutil.copytree(inputs / "runs" / "data", root / "data", dirs_exist_ok=True)
    named = {"--recipe": inputs / "tiny.yaml", "--model": inputs / "model", "--root": root}
    return [stage, *(str(word) for pair in named.items() for word in pair), *map(str, more)]


def two(inputs: Path) -> str:
    """The value of `--launch` for two processes on CPUs."""
    return f"accelerate:{inputs / 'two.yaml'}"


def run_of(root: Path, stage: str) -> Path:
    """The one run of a stage."""
    (run,) = (root / stage).iterdir()
    return run


def losses(run: Path) -> list[dict[str, float]]:
    """Metrics of each step that do not depend on the machine's speed."""
    names = ("step", "loss", "grad_norm", "kl", "reward", "safety", "entropy", "num_tokens")
    return [{name: record[name] for name in names if name in record} for record in read_records(run / "metrics.jsonl")]


def assert_same_training(result: Path, expected: Path) -> None:
    """Two runs of the same steps, up to rounding."""
    assert result.name == expected.name
    assert len(losses(expected)) == 4
    for step, before in zip(losses(result), losses(expected), strict=True):
        assert step == pytest.approx(before, abs=1e-4)
    assert read_json(result / "metrics.json") == pytest.approx(read_json(expected / "metrics.json"), abs=1e-4)
