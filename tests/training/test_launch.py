"""Several processes: how they are started, and how all of them end. What they come to: `test_two_processes.py`."""

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import micro
import pytest
import torch
import yaml
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.commands.launch import _validate_launch_command
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from hypothesis import given
from hypothesis import strategies as st
from program import Running, safereason, started
from tiny_training import TWO, arguments, assert_same_training, prepare, run_of, train_alone, two
from torch.distributed.fsdp import StateDictType
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from safereason import processes
from safereason.errors import InputError
from safereason.runs.records import read_json, read_records
from safereason.training import launch, sharding

WHOLE = """
extends: tiny.yaml
rl: null
eval: {sampling: {temperature: 1.0, max_new_tokens: 8}, behaviors: sample, benign: null, harm_judge: refusal, limit: 4}
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("inputs"))
    (folder / "whole.yaml").write_text(WHOLE)
    return folder


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory) -> Path:
    return train_alone(inputs, tmp_path_factory.mktemp("alone"))


def launched(inputs: Path) -> tuple[str, str]:
    return ("--launch", two(inputs))


@pytest.mark.slow
def test_a_whole_recipe_in_processes_comes_to_what_it_does_in_one(inputs, tmp_path):
    """From data to the report: the training in two processes, evaluations in one each."""
    words = ("run", "--recipe", inputs / "whole.yaml", "--json", "--root")
    alone = safereason(*words, tmp_path / "one")
    done = safereason(*words, tmp_path / "two", *launched(inputs))
    assert (alone.returncode, done.returncode) == (0, 0), done.stderr
    expected, result = (json.loads(ended.stdout)["metrics"] for ended in (alone, done))
    assert list(result["runs"]) == list(expected["runs"])
    for step, run in result["runs"].items():
        assert Path(run).relative_to(tmp_path / "two") == Path(expected["runs"][step]).relative_to(tmp_path / "one")
    assert_same_training(Path(result["runs"]["sft"]), Path(expected["runs"]["sft"]))
    assert result["changes"] == expected["changes"]
    positions = [line.partition(": /")[0] for line in alone.stderr.splitlines() if line.startswith("[")]
    assert [line.partition(": /")[0] for line in done.stderr.splitlines() if line.startswith("[")] == positions
    again = safereason(*words, tmp_path / "two", *launched(inputs))
    assert again.stdout == done.stdout
    assert again.stderr.count("finished before, skipped") == len(result["runs"])


LONG = ("rl.epochs=20", "rl.max_steps=40")
"""Overrides that leave time for a kill and a signal."""


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


def last_step(root: Path) -> int:
    """The step of the last whole checkpoint of the RL."""
    return max((int(mark.parent.name.split("-")[1]) for mark in root.glob("rl/*/checkpoints/*/complete")), default=0)


def run_until_a_checkpoint(inputs: Path, root: Path) -> Running:
    """`run` in processes, after a further checkpoint of the RL, whose process and its two are all there then."""
    before = last_step(root)
    process = started("run", "--recipe", inputs / "tiny.yaml", *LONG, "--root", root, *launched(inputs))
    while last_step(root) <= before:
        assert process.poll() is None
        time.sleep(0.01)
    assert len(processes_of(root)) >= 3
    return process


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads Linux's /proc")
def test_run_and_all_its_processes_end_by_a_kill_and_by_a_signal_and_the_training_goes_on(inputs, alone, tmp_path):
    for stage in ("data", "sft"):
        shutil.copytree(alone / stage, tmp_path / stage)
    killed = run_until_a_checkpoint(inputs, tmp_path)
    killed.kill()
    killed.communicate()
    wait_until_none_is_left(tmp_path)
    manifest = run_of(tmp_path, "rl") / "manifest.json"
    assert read_json(manifest)["status"] == "running"

    ended = run_until_a_checkpoint(inputs, tmp_path)
    # A batch system sends it to all of them, and each passes it on besides.
    ended.terminate()
    for number in processes_of(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(number), signal.SIGTERM)
    _, error_text = ended.communicate()
    assert (ended.returncode, error_text.splitlines()[-1]) == (143, "interrupted by SIGTERM"), error_text
    assert "Traceback" not in error_text
    assert "error" not in error_text
    wait_until_none_is_left(tmp_path)
    assert read_json(manifest)["status"] == "interrupted"

    words = ("rl", "--recipe", inputs / "tiny.yaml", *LONG, "--root", tmp_path, *launched(inputs))
    done = safereason(*words, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    run = run_of(tmp_path, "rl")
    assert json.loads(done.stdout) == {"run": str(run), "metrics": read_json(run / "metrics.json")}
    assert read_json(manifest)["status"] == "finished"
    assert [record["step"] for record in read_records(run / "metrics.jsonl")] == list(range(1, 41))
    assert len(list(read_records(run / "rollouts.jsonl"))) == 40 * 12


@pytest.mark.slow
def test_what_fails_in_every_process_is_said_once_and_ends_run_with_its_code(inputs, alone, tmp_path):
    occupied = tmp_path / "sft" / run_of(alone, "sft").name
    occupied.mkdir(parents=True)
    (occupied / "mine.txt").write_text("mine")
    done = safereason("run", "--recipe", inputs / "tiny.yaml", "--root", tmp_path, *launched(inputs))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: {occupied}: holds files but no manifest.json")
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
