"""`kill -9` and `--resume`: the installed program ends with the records, figures and weights of one never killed."""

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import micro_guard
import pytest
from program import python, safereason, started

from safereason.engines.spec import ModelSpec
from safereason.recipe.load import load
from safereason.runs.records import read_json, read_records
from safereason.stages import data, guard, rl, sft
from safereason.stages import eval as evaluation
from safereason.stages.base import Options

RECIPE = """
model: {model}
seed: 5
data:
  mix: tars
  prompts: 16
  harmful_ratio: 0.5
  harmful: [{{source: sample, prompts: 40}}]
  harmless: [{{source: sample, prompts: 40}}]
  ambiguous: [{{source: sample, prompts: 40}}]
  traces: [{{source: sample, prompts: 24}}]
sft: {{epochs: 1, learning_rate: 1.0e-3, batch_size: 4, micro_batch_size: 2, precision: fp32, save_steps: 2}}
rl:
  epochs: 2
  max_steps: 6
  learning_rate: 1.0e-3
  prompts_per_step: 4
  rollouts_per_prompt: 4
  micro_batch_size: 8
  kl_coef: 0.01
  max_prompt_tokens: 256
  sampling: {{max_new_tokens: 64}}
  reward: {{name: tars, safety: refusal, task: compliance, require_format: false}}
  precision: fp32
  save_steps: 2
eval:
  sampling: {{temperature: 1.0, max_new_tokens: 96}}
  behaviors: sample
  benign: sample
  harm_judge: refusal
  refusal_judge: refusal
  limit: 32
"""
DPO = """
extends: {parent}
model: {model}
seed: 5
rl: {{algorithm: dpo, epochs: 2, max_steps: 6, learning_rate: 1.0e-3, rollouts_per_prompt: 4, batch_size: 4,
  micro_batch_size: 2, beta: 0.1, rpo_alpha: 1.0, max_prompt_tokens: 256, sampling: {{max_new_tokens: 64}},
  precision: fp32,
  reward: {{name: tars, safety: "reward-model:{judge}", task: "{judge}", require_format: false}}, save_steps: 2}}
"""
GUARD = """
model: {model}
seed: 5
data: {{mix: rsafe, rows_per_label: 12, sources: [sample-verdicts], validation_rows_per_label: 4}}
guard:
  policy: {policy}
  reasoning: false
  train:
    epochs: 1
    max_steps: 6
    learning_rate: 1.0
    prompts_per_step: 4
    rollouts_per_prompt: 4
    micro_batch_size: 8
    kl_coef: 0.0
    max_prompt_tokens: 2048
    sampling: {{max_new_tokens: 20}}
    reward: {{name: rsafe}}
    precision: fp32
    save_steps: 2
  validation: {{every_steps: 1}}
  sampling: {{max_new_tokens: 20}}
"""
TIMED = ("step_time",)
"""What a step logs that another run would not repeat."""
GLANCE = 0.02
"""Seconds between two looks at a file; without them, a test would take a core from the program that it watches."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, micro_model) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE.format(model=micro_model))
    return path


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> dict[str, Path]:
    """The runs of each stage, never interrupted."""
    options = Options(root=tmp_path_factory.mktemp("whole"))
    chosen = load(str(recipe))
    return {
        "data": data.build_data(chosen, options).run,
        "sft": sft.train_sft(chosen, options).run,
        "rl": rl.train_rl(chosen, options).run,
        "eval": evaluation.run_eval(chosen, options, evaluation.EvalRequest("xstest")).run,
    }


@pytest.fixture
def root(whole, tmp_path) -> Path:
    """A folder with the runs before the one that is killed."""
    for stage in ("data", "sft"):
        shutil.copytree(whole[stage], tmp_path / stage / whole[stage].name)
    return tmp_path


def kill_once(ready: Callable[[], bool], *arguments: object) -> None:
    """Starts the program and kills its process group as soon as `ready`."""
    with started(*arguments) as process:
        while not ready():
            assert process.poll() is None, f"it ended before it could be killed: {process.stderr.read()}"
            time.sleep(GLANCE)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)], ids=lambda value: str(value)
)
def test_rl_that_is_asked_to_end_says_so_and_is_resumed(recipe, whole, root, sent, code):
    run = root / "rl" / whole["rl"].name
    ready = has_step(run / "rollouts.jsonl", 3)
    with started("rl", "--recipe", recipe, "--root", root) as process:
        while not ready():
            assert process.poll() is None, f"it ended before it could be ended: {process.stderr.read()}"
            time.sleep(GLANCE)
        process.send_signal(sent)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, "")
    assert err.splitlines()[-1].startswith("interrupted")
    assert read_json(run / "manifest.json")["status"] == "interrupted"
    assert not list(run.rglob(".*.part"))
    resume("rl", "--recipe", recipe, "--root", root)
    assert_same_training(run, whole["rl"])


WITHOUT_UMASK = """
import os
from safereason.cli.app import main

os.umask(0)
main()
"""


def test_all_that_a_run_writes_is_for_its_owner_alone(recipe, whole, root):
    for folder, mask in ((root / "private", {}), (root / "shared", {"SAFEREASON_UMASK": "027"})):
        command = ["eval", "xstest", "--recipe", recipe, "--root", root, "--model", whole["rl"], "--out", folder]
        command += ["eval.limit=2", "eval.sampling.max_new_tokens=8"]
        done = python(WITHOUT_UMASK, *command, SAFEREASON_CACHE=str(root / f"{folder.name}-cache"), **mask)
        assert done.returncode == 0, done.stderr
        others = 0o027 if mask else 0o077
        inside = [folder, *folder.rglob("*"), *(root / f"{folder.name}-cache").rglob("*")]
        assert len(inside) > 5
        assert not [(path, oct(path.stat().st_mode)) for path in inside if path.stat().st_mode & others]
    assert (root / "shared").stat().st_mode & 0o070 == 0o050
    done = safereason("recipe", "ls", SAFEREASON_UMASK="rwx")
    assert (done.returncode, done.stderr) == (
        2,
        "error: SAFEREASON_UMASK=rwx: an octal umask is expected, such as 027; mend or unset it\n",
    )


def has_step(path: Path, step: int) -> Callable[[], bool]:
    return lambda: path.exists() and any(record["step"] >= step for record in read_records(path))


def resume(*arguments: object) -> None:
    done = safereason(*arguments, "--resume")
    assert done.returncode == 0, done.stderr


def steps(run: Path) -> list[dict]:
    records = read_records(run / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in TIMED} for record in records]


def assert_same_training(result: Path, expected: Path) -> None:
    assert steps(result) == steps(expected)
    assert read_json(result / "metrics.json") == read_json(expected / "metrics.json")
    name = "model/model.safetensors"
    assert (result / name).read_bytes() == (expected / name).read_bytes()


def test_rl_is_killed_and_resumed(recipe, whole, root):
    run = root / "rl" / whole["rl"].name
    kill_once(has_step(run / "rollouts.jsonl", 3), "rl", "--recipe", recipe, "--root", root)
    assert not (run / "model").exists()
    assert read_json(run / "manifest.json")["status"] == "running"
    leave_half_a_checkpoint(run / "checkpoints")
    with (run / "rollouts.jsonl").open("ab") as file:
        file.write(b'{"step": 9, "id": "sample/torn')
    resume("rl", "--recipe", recipe, "--root", root)
    assert_same_training(run, whole["rl"])
    assert list(read_records(run / "rollouts.jsonl")) == list(read_records(whole["rl"] / "rollouts.jsonl"))
    drawn = Counter(record["step"] for record in read_records(run / "rollouts.jsonl"))
    assert drawn == dict.fromkeys(range(1, 7), 16)


def test_dpo_is_killed_while_it_draws_and_while_it_trains_and_resumed(
    recipe, whole, micro_model, micro_classifier, tmp_path_factory, tmp_path
):
    """From the model itself, so that only the data is there before it."""
    folder = tmp_path_factory.mktemp("dpo")
    mine = folder / "tiny-dpo.yaml"
    mine.write_text(DPO.format(parent=recipe, model=micro_model, judge=micro_classifier))
    arguments = ("rl", "--recipe", mine, "--model", micro_model, "--root")
    for root in (folder, tmp_path):
        data.build_data(load(str(mine)), Options(root=root))
    expected = rl.train_rl(load(str(mine)), Options(root=folder, model=ModelSpec.parse(str(micro_model)))).run
    run = tmp_path / "rl" / expected.name
    kill_once(
        lambda: (run / "completions.jsonl").exists() and any(read_records(run / "completions.jsonl")),
        *arguments,
        tmp_path,
    )
    assert len(list(read_records(run / "completions.jsonl"))) < 64
    assert not (run / "rollouts.jsonl").exists()
    kill_once(has_step(run / "metrics.jsonl", 3), *arguments, tmp_path, "--resume")
    assert not (run / "model").exists()
    leave_half_a_checkpoint(run / "checkpoints")
    resume(*arguments, tmp_path)
    assert_same_training(run, expected)
    for name in ("rollouts.jsonl", "pairs.jsonl"):
        assert (run / name).read_bytes() == (expected / name).read_bytes()
    resumed_draws, expected_draws = (
        sorted(read_records(path / "completions.jsonl"), key=json.dumps) for path in (run, expected)
    )
    assert resumed_draws == expected_draws


def test_a_guards_rl_is_killed_and_resumed(tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("guard")
    (folder / "rules.yaml").write_text(micro_guard.POLICY)
    recipe = folder / "tiny-guard.yaml"
    recipe.write_text(GUARD.format(model=micro_guard.save_guard(folder / "start"), policy=folder / "rules.yaml"))
    chosen = load(str(recipe))
    for root in (folder, tmp_path):
        data.build_data(chosen, Options(root=root))
    whole = guard.train_guard(chosen, Options(root=folder)).run
    run = tmp_path / "guard/rl" / whole.name
    kill_once(has_step(run / "validation.jsonl", 3), "guard", "train", "--recipe", recipe, "--root", tmp_path)
    assert not (run / "model").exists()
    resume("guard", "train", "--recipe", recipe, "--root", tmp_path)
    assert_same_training(run, whole)
    for name in ("rollouts.jsonl", "validation.jsonl"):
        assert list(read_records(run / name)) == list(read_records(whole / name))
    assert [look["step"] for look in read_records(run / "validation.jsonl")] == list(range(7))
    assert not [path for path in run.iterdir() if "best" in path.name]


def leave_half_a_checkpoint(folder: Path) -> None:
    """What a kill during the next save leaves: files cut off, and no mark that it is whole."""
    step, last = max((int(path.name.rpartition("-")[2]), path) for path in folder.glob("checkpoint-*"))
    assert (last / "complete").exists()
    half = folder / f"checkpoint-{step + 2}"
    shutil.copytree(last, half)
    (half / "complete").unlink()
    for file in half.iterdir():
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])


def test_sft_is_killed_and_resumed(recipe, whole, root):
    shutil.rmtree(root / "sft")
    run = root / "sft" / whole["sft"].name
    kill_once(has_step(run / "metrics.jsonl", 3), "sft", "--recipe", recipe, "--root", root)
    assert not (run / "model").exists()
    resume("sft", "--recipe", recipe, "--root", root)
    assert_same_training(run, whole["sft"])
    assert [record["step"] for record in steps(run)] == list(range(1, 7))


def test_eval_is_killed_and_resumed(recipe, whole, tmp_path):
    run = tmp_path / "eval" / "xstest" / whole["eval"].name
    arguments = ("eval", "xstest", "--recipe", recipe, "--model", whole["rl"], "--root", tmp_path)
    kill_once(lambda: (run / "completions.jsonl").exists() and any(read_records(run / "completions.jsonl")), *arguments)
    assert len(list(read_records(run / "completions.jsonl"))) < 32
    resume(*arguments)
    for name in ("completions.jsonl", "verdicts.jsonl"):
        result, expected = (sorted(read_records(folder / name), key=json.dumps) for folder in (run, whole["eval"]))
        assert result == expected
    assert read_json(run / "metrics.json") == read_json(whole["eval"] / "metrics.json")


class Killed(BaseException):
    """Stands for `kill -9`: nothing that handles errors sees it."""


@pytest.mark.parametrize(
    ("stage", "train", "saves"), [("sft", sft.train_sft, "sft.save_trainer"), ("rl", rl.train_rl, "grpo.save_trained")]
)
def test_a_kill_after_the_last_checkpoint_costs_no_step(
    recipe, whole, tmp_path, monkeypatch, stage: str, train, saves: str
):
    def die(*args: object) -> None:
        raise Killed

    for earlier in ("data",) if stage == "sft" else ("data", "sft"):
        shutil.copytree(whole[earlier], tmp_path / earlier / whole[earlier].name)
    with monkeypatch.context() as patched:
        patched.setattr(f"safereason.training.{saves}", die)
        with pytest.raises(Killed):
            train(load(str(recipe)), Options(root=tmp_path))
    run = tmp_path / stage / whole[stage].name
    assert not (run / "model").exists()
    before = (run / "metrics.jsonl").read_bytes()
    train(load(str(recipe)), Options(root=tmp_path, on_existing="resume"))
    assert (run / "metrics.jsonl").read_bytes() == before
    assert_same_training(run, whole[stage])
