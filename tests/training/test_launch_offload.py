"""Two processes under FSDP2 that offload: they come to what one process comes to."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import micro
import offload_on_cpu
import pytest
import torch
from safetensors.torch import load_file

from safereason.engines.spec import ModelSpec
from safereason.recipe.load import load
from safereason.runs.records import read_records
from safereason.stages import data, rl, sft
from safereason.stages.base import Options
from safereason.training import launch

RECIPE = """
model: {model}
data: {{mix: tars, prompts: 16, harmful_ratio: 0.5, harmful: {sample}, harmless: {sample}, ambiguous: {sample},
  traces: [{{source: sample, prompts: 16}}]}}
sft: {{epochs: 1, learning_rate: 1.0e-3, batch_size: 4, precision: fp32, save_steps: 2}}
rl: {{epochs: 1, learning_rate: 1.0e-3, prompts_per_step: 2, rollouts_per_prompt: 4, micro_batch_size: 2, kl_coef: 0.1,
  max_steps: 4, max_prompt_tokens: 256, sampling: {{max_new_tokens: 8}}, precision: fp32, save_steps: 2,
  reward: {{name: tars, safety: refusal, task: "reward-model:{judge}", require_format: false}}}}
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a recipe and its data, and the runs of one process."""
    folder = tmp_path_factory.mktemp("offload")
    model = micro.save_model(folder / "model")
    judge = micro.save_classifier(folder / "judge")
    text = RECIPE.format(model=model, judge=judge, sample="[{source: sample, prompts: 40}]")
    (folder / "tiny.yaml").write_text(text)
    recipe, options = load(str(folder / "tiny.yaml")), Options(root=folder / "runs", model=ModelSpec.parse(str(model)))
    data.build_data(recipe, Options(root=folder / "runs"))
    sft.train_sft(recipe, options)
    rl.train_rl(recipe, options)
    return folder


def command(inputs: Path, stage: str, root: Path, config: str, *words: str) -> list[str]:
    shutil.copytree(inputs / "runs" / "data", root / "data")
    started = launch.read(f"accelerate:{config}", gpus=2)
    named = {"--recipe": inputs / "tiny.yaml", "--model": inputs / "model", "--root": root}
    return [
        str(Path(sys.executable).with_name("accelerate")),
        "launch",
        *started.arguments,
        str(Path(offload_on_cpu.__file__)),
        stage,
        *words,
        *(str(word) for pair in named.items() for word in pair),
    ]


def killed_after_a_checkpoint(words: list[str], root: Path) -> None:
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        while not list(root.glob("*/*/checkpoints/checkpoint-2/complete")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)


def steps(run: Path) -> list[dict[str, float]]:
    names = ("step", "loss", "grad_norm", "kl", "reward", "entropy", "num_tokens")
    return [{name: row[name] for name in names if name in row} for row in read_records(run / "metrics.jsonl")]


def run_of(root: Path, stage: str) -> Path:
    (run,) = (root / stage).iterdir()
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "config", "offload", "killed"),
    [
        ("rl", "fsdp2-offload", "auto", True),
        ("sft", "fsdp2-offload", "all", False),
        ("rl", "fsdp2", "optimizer", False),
    ],
    ids=["rl, all", "sft, all", "rl, optimizer"],
)
def test_two_processes_that_offload_train_as_one(stage, config, offload, killed, inputs, tmp_path, monkeypatch):
    """One is killed on the way, so that what was offloaded is read back from a checkpoint."""
    noted = tmp_path / "offloaded"
    monkeypatch.setenv("OFFLOADED", str(noted))
    root = tmp_path / "runs"
    words = command(inputs, stage, root, config, f"{stage}.offload={offload}")
    if killed:
        killed_after_a_checkpoint(words, root)
    done = subprocess.run([*words, "--resume"], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    # Where it is computed is no part of a run's identity.
    result, expected = run_of(root, stage), run_of(inputs / "runs", stage)
    assert result.name == expected.name
    assert len(steps(expected)) == 4
    for step, before in zip(steps(result), steps(expected), strict=True):
        assert step == pytest.approx(before, abs=1e-4)
    weights, whole = (load_file(run / "model" / "model.safetensors") for run in (result, expected))
    assert weights.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-3)
    offloaded = set()
    if noted.is_file():
        offloaded = set(noted.read_text().split())
    assert ("LlamaDecoderLayer" in offloaded) == (config == "fsdp2-offload")
