"""Several processes: how they are started, and that they come to what one process comes to."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import fsdp_on_cpu
import micro
import micro_guard
import pytest
import torch
import yaml
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.commands.launch import _validate_launch_command
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from hypothesis import given
from hypothesis import strategies as st
from program import Running, safereason, started
from safetensors.torch import load_file
from torch.distributed.fsdp import StateDictType
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from safereason import processes
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.recipe.load import load
from safereason.runs.records import read_json, read_records
from safereason.stages import data, guard, rl, sft
from safereason.stages.base import Options
from safereason.training import launch, sharding

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
WHOLE = """
extends: tiny.yaml
eval: {sampling: {temperature: 1.0, max_new_tokens: 8}, behaviors: sample, benign: null, harm_judge: refusal, limit: 4}
"""
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


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a recipe, its data, and accelerate's config."""
    folder = tmp_path_factory.mktemp("launch")
    model = micro.save_model(folder / "model")
    judge = micro.save_classifier(folder / "judge")
    (folder / "tiny.yaml").write_text(RECIPE.format(model=model, judge=judge, sample="[{source: sample, prompts: 40}]"))
    (folder / "whole.yaml").write_text(WHOLE)
    (folder / "two.yaml").write_text(TWO)
    (folder / "rows.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "id": f"mine/{label}-{i}",
                    "prompt": f"{label} thing {i}?",
                    "kind": "harmless",
                    "source": "mine",
                    "label": label,
                }
            )
            + "\n"
            for label in ("safe", "unsafe")
            for i in range(10)
        )
    )
    (folder / "rules.yaml").write_text(micro_guard.POLICY)
    (folder / "guard.yaml").write_text(
        GUARD.format(
            model=micro_guard.save_guard(folder / "guard"), rows=folder / "rows.jsonl", policy=folder / "rules.yaml"
        )
    )
    data.build_data(load(str(folder / "tiny.yaml")), Options(root=folder / "runs"))
    return folder


def arguments(inputs: Path, stage: str, root: Path, *more: object) -> list[str]:
    shutil.copytree(inputs / "runs" / "data", root / "data", dirs_exist_ok=True)
    named = {"--recipe": inputs / "tiny.yaml", "--model": inputs / "model", "--root": root}
    return [stage, *(str(word) for pair in named.items() for word in pair), *map(str, more)]


def launched(inputs: Path) -> tuple[str, str]:
    return ("--launch", f"accelerate:{inputs / 'two.yaml'}")


def run_of(root: Path, stage: str) -> Path:
    (run,) = (root / stage).iterdir()
    return run


def losses(run: Path) -> list[dict[str, float]]:
    names = ("step", "loss", "grad_norm", "kl", "reward", "safety", "entropy", "num_tokens")
    return [{name: record[name] for name in names if name in record} for record in read_records(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory) -> Path:
    """The runs of one process."""
    root = tmp_path_factory.mktemp("alone")
    shutil.copytree(inputs / "runs" / "data", root / "data")
    for train in (sft.train_sft, rl.train_rl):
        train(load(str(inputs / "tiny.yaml")), Options(root=root, model=ModelSpec.parse(str(inputs / "model"))))
    return root


@pytest.fixture(scope="module")
def together(inputs, tmp_path_factory) -> Path:
    """The runs of two."""
    root = tmp_path_factory.mktemp("together")
    for stage in ("sft", "rl"):
        done = safereason(*arguments(inputs, stage, root, *launched(inputs), "--json"))
        assert done.returncode == 0, done.stderr
        run = run_of(root, stage)
        assert json.loads(done.stdout) == {"run": str(run), "metrics": read_json(run / "metrics.json")}
    return root


def launcher(command: list[str]) -> Running:
    """A launcher while it runs."""
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True)


def kill_after_a_checkpoint(running: Running, root: Path) -> None:
    """Kills it outright; where that is a launcher, it alone: its processes end with it."""
    with running as process:
        while not list(root.glob("*/*/checkpoints/checkpoint-2/complete")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)


def assert_same_training(result: Path, expected: Path) -> None:
    assert result.name == expected.name
    assert len(losses(expected)) == 4
    for step, before in zip(losses(result), losses(expected), strict=True):
        assert step == pytest.approx(before, abs=1e-4)
    assert read_json(result / "metrics.json") == pytest.approx(read_json(expected / "metrics.json"), abs=1e-4)


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
    done = safereason(
        "guard", "train", "--recipe", inputs / "guard.yaml", "--root", tmp_path / "two", *launched(inputs)
    )
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


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_two_processes_with_half_the_model_each_train_as_one(inputs, alone, tmp_path, stage):
    """FSDP2: rollouts on the weights put together, checkpoints in parts, and one whole model in the end.

    They are killed on the way. What they did before is held to one process's training as well as what came after.
    """
    config = launch.read("accelerate:fsdp2", gpus=2).arguments
    command = [
        str(Path(sys.executable).with_name("accelerate")),
        "launch",
        *config,
        str(Path(fsdp_on_cpu.__file__)),
        *arguments(inputs, stage, tmp_path),
    ]
    kill_after_a_checkpoint(launcher(command), tmp_path)
    (checkpoint,) = tmp_path.glob(f"{stage}/*/checkpoints/checkpoint-2")
    parts = checkpoint if stage == "rl" else checkpoint / "pytorch_model_fsdp_0"
    assert {path.name for path in parts.glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result, expected = run_of(tmp_path, stage), run_of(alone, stage)
    assert_same_training(result, expected)
    weights, whole = (load_file(run / "model" / "model.safetensors") for run in (result, expected))
    assert weights.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-3)


def steps_in_bf16(inputs: Path, root: Path, layout: str, **environment: str) -> list[dict[str, float]]:
    """The steps of an RL in bf16 on two processes, whole (`two`) or in parts (`fsdp2`) on each of them."""
    config = launch.read(f"accelerate:{inputs / 'two.yaml'}" if layout == "two" else "accelerate:fsdp2", gpus=2)
    words = arguments(inputs, "rl", root, "rl.precision=bf16", "rl.learning_rate=2e-4")
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", *config.arguments]
    done = subprocess.run(
        [*command, str(Path(fsdp_on_cpu.__file__)), *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
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


@pytest.mark.slow
def test_bf16_in_parts_is_bf16_as_a_whole_and_not_with_accelerates_policy(inputs, tmp_path):
    expected = steps_in_bf16(inputs, tmp_path / "ddp", "two")
    assert len(expected) == 4
    assert furthest(steps_in_bf16(inputs, tmp_path / "fsdp2", "fsdp2"), expected) < 0.02
    assert furthest(steps_in_bf16(inputs, tmp_path / "half", "fsdp2", ACCELERATES_POLICY="1"), expected) > 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "before"), [("sft", 1), ("rl", 2)], ids=["sft: one, then two", "rl: two, then one"])
def test_a_run_goes_on_with_another_number_of_processes(inputs, alone, tmp_path, stage, before):
    one, two = arguments(inputs, stage, tmp_path), arguments(inputs, stage, tmp_path, *launched(inputs))
    if before == 1:
        kill_after_a_checkpoint(started(*one), tmp_path)
        again = safereason(*two, "--resume")
    else:
        kill_after_a_checkpoint(launcher([sys.executable, "-m", "safereason", *two]), tmp_path)
        again = safereason(*one, "--resume")
    assert again.returncode == 0, again.stderr
    assert_same_training(run_of(tmp_path, stage), run_of(alone, stage))


@pytest.mark.slow
def test_killed_with_its_launcher_it_is_resumed(inputs, alone, tmp_path):
    words = arguments(inputs, "rl", tmp_path, *launched(inputs))
    kill_after_a_checkpoint(launcher([sys.executable, "-m", "safereason", *words]), tmp_path)
    again = safereason(*words, "--resume")
    assert again.returncode == 0, again.stderr
    result = run_of(tmp_path, "rl")
    assert_same_training(result, run_of(alone, "rl"))
    assert len(list(read_records(result / "rollouts.jsonl"))) == 48


@pytest.mark.slow
def test_a_whole_recipe_in_processes_comes_to_what_it_does_in_one(inputs, tmp_path):
    """From data to the report: trainings in two processes each, evaluations in one each."""
    words = ("run", "--recipe", inputs / "whole.yaml", "--json", "--root")
    alone = safereason(*words, tmp_path / "one")
    done = safereason(*words, tmp_path / "two", *launched(inputs))
    assert (alone.returncode, done.returncode) == (0, 0), done.stderr
    expected, result = (json.loads(ended.stdout)["metrics"] for ended in (alone, done))
    assert list(result["runs"]) == list(expected["runs"])
    for step, run in result["runs"].items():
        assert Path(run).relative_to(tmp_path / "two") == Path(expected["runs"][step]).relative_to(tmp_path / "one")
    for step in ("sft", "rl"):
        assert_same_training(Path(result["runs"][step]), Path(expected["runs"][step]))
    assert result["changes"] == expected["changes"]
    positions = [line.partition(": /")[0] for line in alone.stderr.splitlines() if line.startswith("[")]
    assert [line.partition(": /")[0] for line in done.stderr.splitlines() if line.startswith("[")] == positions
    again = safereason(*words, tmp_path / "two", *launched(inputs))
    assert again.stdout == done.stdout
    assert again.stderr.count("finished before, skipped") == len(result["runs"])


LONG = ("rl.epochs=20", "rl.max_steps=60")
"""Overrides that leave time for a signal."""


def processes_of(root: Path) -> list[str]:
    """The processes whose command line names a folder."""
    named: list[str] = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            if str(root).encode() in command.read_bytes():
                named.append(command.parent.name)
    return named


def wait_until_none_is_left(root: Path) -> None:
    """Returns when no process names the folder any more; fails where one stays."""
    give_up = time.monotonic() + 120
    while left := processes_of(root):
        assert time.monotonic() < give_up, left
        time.sleep(0.05)


def run_until_a_checkpoint(inputs: Path, root: Path) -> Running:
    """`run` in processes, after a checkpoint of the RL, whose process and its two are all there then."""
    process = started("run", "--recipe", inputs / "tiny.yaml", *LONG, "--root", root, *launched(inputs))
    while not list(root.glob("rl/*/checkpoints/checkpoint-2/complete")):
        assert process.poll() is None
        time.sleep(0.01)
    assert len(processes_of(root)) >= 3
    return process


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads Linux's /proc")
def test_a_signal_ends_run_and_all_its_processes(inputs, tmp_path):
    number = signal.SIGTERM
    process = run_until_a_checkpoint(inputs, tmp_path)
    process.send_signal(number)
    _, told = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in told
    # Each process says so, in whichever order they end.
    assert "interrupted by SIGTERM" in told
    wait_until_none_is_left(tmp_path)
    # A process whose peer has ended before it sees a broken connection, and fails by that.
    assert read_json(run_of(tmp_path, "rl") / "manifest.json")["status"] in ("interrupted", "failed")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads Linux's /proc")
def test_no_process_of_run_outlives_it(inputs, tmp_path):
    process = run_until_a_checkpoint(inputs, tmp_path)
    process.kill()
    process.communicate()
    wait_until_none_is_left(tmp_path)


@pytest.mark.slow
def test_a_step_that_fails_ends_run_with_its_code_and_its_line(inputs, alone, tmp_path):
    occupied = tmp_path / "sft" / run_of(alone, "sft").name
    occupied.mkdir(parents=True)
    (occupied / "mine.txt").write_text("mine")
    done = safereason("run", "--recipe", inputs / "tiny.yaml", "--root", tmp_path, *launched(inputs))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: {occupied}: holds files but no manifest.json")
    assert done.stderr.count("error:") == 1


@pytest.mark.slow
def test_what_fails_in_every_process_is_said_once(inputs, alone, tmp_path):
    words = arguments(inputs, "sft", tmp_path, *launched(inputs))
    run = tmp_path / "sft" / run_of(alone, "sft").name
    run.mkdir(parents=True)
    (run / "mine.txt").write_text("mine")
    done = safereason(*words)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {run}: exists and is not empty")
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(inputs, tmp_path):
    done = safereason(*arguments(inputs, "sft", tmp_path, *launched(inputs), "sft.batch_size=3"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: sft: 3 sequences a step cannot be shared by 2 processes evenly\n"
    assert not (tmp_path / "sft").exists()


def test_a_dry_run_prints_the_command(inputs, tmp_path):
    words = arguments(inputs, "sft", tmp_path)
    done = safereason(*words, *launched(inputs), "--dry-run", "--json")
    plan = json.loads(done.stdout)["plan"]
    assert plan["SFTConfig"]["per_device_train_batch_size"] == 2
    config = str(inputs / "two.yaml")
    expected = [
        "accelerate",
        "launch",
        "--config_file",
        config,
        "--module",
        "safereason",
        *words,
        "--dry-run",
        "--json",
    ]
    assert plan["launch"].split() == expected
    assert not (tmp_path / "sft").exists()


def environment(settings: launch.Launch, monkeypatch) -> dict[str, str]:
    """What accelerate would start the processes with."""
    parsed, defaults, _ = _validate_launch_command(settings.parsed(["sft", "--recipe", "tars-7b"]))
    assert (parsed.module, parsed.training_script, parsed.training_script_args) == (
        True,
        "safereason",
        ["sft", "--recipe", "tars-7b"],
    )
    parsed.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    prepare = prepare_deepspeed_cmd_env if parsed.use_deepspeed else lambda known: (None, prepare_multi_gpu_env(known))
    variables = {name: value for name, value in prepare(parsed)[1].items() if name.startswith(("ACCELERATE", "FSDP"))}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


def test_fsdp2_shards_by_accelerates_own_plugin(monkeypatch):
    settings = launch.read("accelerate:fsdp2", gpus=8)
    assert settings.processes == 8
    assert environment(settings, monkeypatch)["ACCELERATE_MIXED_PRECISION"] == "no"
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, False)
    assert plugin.state_dict_type == StateDictType.SHARDED_STATE_DICT
    plugin.set_auto_wrap_policy(LlamaForCausalLM(micro.config()))
    assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] == {LlamaDecoderLayer}
    assert processes.shards_model()


def test_sft_in_parts_reduces_gradients_in_fp32():
    for precision, reduced in (("bf16", torch.float32), ("no", None)):
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
        plugin.set_mixed_precision("bf16")
        plugin.mixed_precision_policy = plugin.mixed_precision_policy if precision == "bf16" else None
        assert precision == "no" or plugin.mixed_precision_policy.reduce_dtype == torch.bfloat16
        state = SimpleNamespace(fsdp_plugin=plugin)
        sharding.reduce_in_fp32(SimpleNamespace(state=state, mixed_precision=precision))
        assert getattr(plugin.mixed_precision_policy, "reduce_dtype", None) == reduced
        assert getattr(plugin.mixed_precision_policy, "output_dtype", None) == reduced
    sharding.reduce_in_fp32(SimpleNamespace(state=SimpleNamespace(), mixed_precision="bf16"))


def test_zero3_shards_by_accelerates_own_plugin(monkeypatch):
    monkeypatch.setattr(launch, "installed", lambda package: "0")
    settings = launch.read("accelerate:zero3", gpus=4)
    assert settings.processes == 4
    environment(settings, monkeypatch)
    plugin = DeepSpeedPlugin()
    assert (plugin.zero_stage, plugin.zero3_init_flag, plugin.zero3_save_16bit_model) == (3, False, True)
    assert plugin.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    assert processes.shards_model()


@pytest.fixture
def no_default(monkeypatch):
    monkeypatch.setattr(launch, "_default_config", lambda: None)


def test_plain_accelerate_takes_all_gpus(no_default):
    settings = launch.read("accelerate", gpus=4)
    assert settings.processes == 4
    accelerate_arguments, _, _ = _validate_launch_command(settings.parsed(["rl"]))
    assert (accelerate_arguments.multi_gpu, accelerate_arguments.num_processes, accelerate_arguments.num_machines) == (
        True,
        4,
        1,
    )


def test_plain_accelerate_takes_the_users_own_config(monkeypatch, tmp_path):
    (tmp_path / "mine.yaml").write_text(TWO)
    monkeypatch.setattr(launch, "_default_config", lambda: tmp_path / "mine.yaml")
    assert launch.read("accelerate", gpus=0) == launch.Launch((), 2)


def test_machines_come_from_the_config(tmp_path):
    (tmp_path / "nodes.yaml").write_text(TWO.replace("num_processes: 2", "").replace("machines: 1", "machines: 3"))
    assert launch.read(f"accelerate:{tmp_path / 'nodes.yaml'}", gpus=8).processes == 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distributed_type": "MULTI_CPU"}, "set distributed_type: MULTI_GPU and use_cpu: true"),
        ({"distributed_type": "NO"}, "distributed_type NO is one process"),
        ({"distributed_type": "DEEPSPEED"}, "pip install 'safereason\\[deepspeed\\]'"),
        ({"distributed_type": "MAGIC"}, "accelerate cannot read it"),
        ({"num_procesess": 2}, "accelerate cannot read it .*num_procesess"),
        ({"num_processes": 1}, "comes to 1 process"),
        ({"num_processes": None}, "does not say num_processes, and this machine has no GPU"),
    ],
)
def test_a_config_that_will_not_do_is_refused(tmp_path, change, message):
    config = {key: value for key, value in {**yaml.safe_load(TWO), **change}.items() if value is not None}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=message) as error:
        launch.read(f"accelerate:{tmp_path / 'mine.yaml'}", gpus=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["torchrun", "accelerate:", "accelerate:nothing", "accelerate"])
def test_what_is_no_launch_is_refused(no_default, text):
    with pytest.raises(InputError, match=f"^--launch {text}: "):
        launch.read(text, gpus=1)


WORDS = st.sampled_from(["sft", "--json", "--launch", "--launch=accelerate", "accelerate:fsdp2", "rl.max_steps=1"])


@given(st.lists(WORDS))
def test_each_process_is_started_without_the_launch(words):
    kept = launch.without(words)
    assert not any(word.startswith("--launch") for word in kept)
    assert launch.without(kept) == kept
    assert launch.without([*words, "end", "--launch", "accelerate"])[-1:] == launch.without([*words, "end"])[-1:]
