"""Two processes come to what one process comes to, whole or in parts, and also where they were killed on the way."""

import json
from collections.abc import Callable
from pathlib import Path

import fsdp_on_cpu
import pytest
import torch
import two_processes
from program import Running, safereason, started
from safetensors.torch import load_file
from tiny_training import arguments, assert_same_training, losses, prepare, run_of, train_alone, two

from safereason.recipe.load import load
from safereason.runs.records import read_json, read_records
from safereason.stages import data, guard
from safereason.stages.base import Options

FSDP2 = "accelerate:fsdp2"
ON_CPU = Path(fsdp_on_cpu.__file__).read_text()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory) -> Path:
    return train_alone(inputs, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def together(inputs, tmp_path_factory) -> Path:
    """The runs of two."""
    root = tmp_path_factory.mktemp("together")
    for stage in ("sft", "rl"):
        first, second = two_processes.run(two(inputs), *arguments(inputs, stage, root, "--json"))
        assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
        run = run_of(root, stage)
        assert json.loads(first.stdout) == {"run": str(run), "metrics": read_json(run / "metrics.json")}
        assert second.stdout == ""
    return root


def at_a_checkpoint(root: Path) -> Callable[[], object]:
    return lambda: list(root.glob("*/*/checkpoints/checkpoint-2/complete"))


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_two_processes_train_as_one(alone, together, stage):
    result, expected = run_of(together, stage), run_of(alone, stage)
    assert_same_training(result, expected)
    assert {path.name for path in result.iterdir()} == {path.name for path in expected.iterdir()}


def test_two_processes_draw_the_rollouts_of_one(alone, together):
    result, expected = (list(read_records(run_of(root, "rl") / "rollouts.jsonl")) for root in (together, alone))
    assert [(row["step"], row["id"], row["text"]) for row in result] == [
        (row["step"], row["id"], row["text"]) for row in expected
    ]
    assert [row["total"] for row in result] == pytest.approx([row["total"] for row in expected], abs=1e-6)


def test_two_processes_train_a_guard_as_one(inputs, tmp_path):
    """Its SFT, its RL, and the looks at rows held out, which every process takes alike."""
    recipe = load(str(inputs / "guard.yaml"))
    roots = {"one": Options(root=tmp_path / "one"), "two": Options(root=tmp_path / "two")}
    for options in roots.values():
        data.build_data(recipe, options)
    guard.train_guard(recipe, roots["one"])
    words = ("guard", "train", "--recipe", inputs / "guard.yaml", "--root", tmp_path / "two")
    for done in two_processes.run(two(inputs), *words):
        assert done.returncode == 0, done.stderr
    for stage in ("guard/sft", "guard/rl"):
        result, expected = (run_of(tmp_path / name, stage) for name in ("two", "one"))
        assert result.name == expected.name
        steps = losses(expected)
        assert len(steps) == (3 if stage == "guard/sft" else 4)
        for step, before in zip(losses(result), steps, strict=True):
            assert {name: step[name] for name in before} == pytest.approx(before, abs=1e-4)
    assert any(0 < step["reward"] < 1 for step in steps)
    looks = [list(read_records(run_of(tmp_path / name, "guard/rl") / "validation.jsonl")) for name in ("two", "one")]
    assert looks[0] == looks[1]
    assert [look["step"] for look in looks[0]] == [0, 2, 4]


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_two_processes_with_half_the_model_each_train_as_one(inputs, alone, tmp_path, stage):
    """FSDP2: rollouts on the weights put together, checkpoints in parts, and one whole model in the end.

    They are killed on the way. What they did before is held to one process's training as well as what came after.
    """
    words = arguments(inputs, stage, tmp_path)
    with two_processes.started(FSDP2, *words, program=ON_CPU) as processes:
        two_processes.kill_once(at_a_checkpoint(tmp_path), processes)
    (checkpoint,) = tmp_path.glob(f"{stage}/*/checkpoints/checkpoint-2")
    parts = checkpoint if stage == "rl" else checkpoint / "pytorch_model_fsdp_0"
    assert {path.name for path in parts.glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}
    for done in two_processes.run(FSDP2, *words, "--resume", program=ON_CPU):
        assert done.returncode == 0, done.stderr
    result, expected = run_of(tmp_path, stage), run_of(alone, stage)
    assert_same_training(result, expected)
    weights, whole = (load_file(run / "model" / "model.safetensors") for run in (result, expected))
    assert weights.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-3)


def steps_in_bf16(inputs: Path, root: Path, spec: str, **environment: str) -> list[dict[str, float]]:
    """The steps of an RL in bf16 on two processes, whole or in parts on each of them."""
    words = arguments(inputs, "rl", root, "rl.precision=bf16", "rl.learning_rate=2e-4")
    for done in two_processes.run(spec, *words, program=ON_CPU, **environment):
        assert done.returncode == 0, done.stderr
    return losses(run_of(root, "rl"))


def furthest(steps: list[dict[str, float]], expected: list[dict[str, float]]) -> float:
    """The largest relative difference of KL, entropy and gradient norm."""
    worst = 0.0
    for step, other in zip(steps, expected, strict=True):
        for name in ("kl", "entropy", "grad_norm"):
            # The KL of the first step is 0 up to rounding.
            worst = max(worst, abs(step[name] - other[name]) / max(abs(other[name]), 1e-5))
    return worst


def test_bf16_in_parts_is_bf16_as_a_whole_and_not_with_accelerates_policy(inputs, tmp_path):
    expected = steps_in_bf16(inputs, tmp_path / "ddp", two(inputs))
    assert len(expected) == 4
    assert furthest(steps_in_bf16(inputs, tmp_path / "fsdp2", FSDP2), expected) < 0.02
    assert furthest(steps_in_bf16(inputs, tmp_path / "half", FSDP2, ACCELERATES_POLICY="1"), expected) > 0.02


def kill_one(process: Running, root: Path) -> None:
    with process:
        two_processes.kill_once(at_a_checkpoint(root), [process])


@pytest.mark.parametrize(
    ("stage", "before", "after"),
    [("sft", 1, 2), ("rl", 2, 1), ("rl", 2, 2)],
    ids=["sft: one, then two", "rl: two, then one", "rl: two, then two"],
)
def test_a_run_that_was_killed_goes_on_with_any_number_of_processes(inputs, alone, tmp_path, stage, before, after):
    words = arguments(inputs, stage, tmp_path)
    if before == 1:
        kill_one(started(*words), tmp_path)
    else:
        with two_processes.started(two(inputs), *words) as processes:
            two_processes.kill_once(at_a_checkpoint(tmp_path), processes)
    if after == 1:
        ended = [safereason(*words, "--resume")]
    else:
        ended = two_processes.run(two(inputs), *words, "--resume")
    for done in ended:
        assert done.returncode == 0, done.stderr
    result = run_of(tmp_path, stage)
    assert_same_training(result, run_of(alone, stage))
    if stage == "rl":
        assert len(list(read_records(result / "rollouts.jsonl"))) == 48


ENDS = """
import os, signal, sys, time
from pathlib import Path
from safereason import processes
from safereason.cli import errors
from safereason.errors import StageFailed
from safereason.runs.directory import RunDirectory, read_manifest

def stage():
    processes.join()
    with RunDirectory(Path(sys.argv[1]), "rl", "tiny", "", {}) as run:
        if processes.index() == 1 and sys.argv[2] == "fails":
            raise StageFailed("no memory")
        if processes.index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if sys.argv[2] == "is ended":
            processes.wait()
        while read_manifest(run.path)["status"] == "running":
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

sys.exit(errors.guarded(stage))
"""
"""The second process fails or is ended; the first one is ended for it by the launcher, or sees a broken connection."""


@pytest.mark.parametrize(
    ("second", "status", "error", "codes", "last_line"),
    [
        ("fails", "failed", "no memory", (143, 1), ("", "process 1: error: no memory\n")),
        ("is ended", "interrupted", "SIGTERM", (1, 143), ("error: unexpected", "")),
    ],
)
def test_the_first_process_that_ends_says_how_a_run_ended(inputs, tmp_path, second, status, error, codes, last_line):
    ended = two_processes.run(two(inputs), tmp_path / "run", second, program=ENDS)
    document = read_json(tmp_path / "run" / "manifest.json")
    assert (document["status"], document["error"]) == (status, error)
    assert tuple(done.returncode for done in ended) == codes
    # One that a signal ends says nothing: the launcher knows whether the signal was its own.
    assert ended[0].stderr.startswith(last_line[0])
    assert ended[1].stderr == last_line[1]
    assert (ended[0].stderr == "") == (last_line[0] == "")
