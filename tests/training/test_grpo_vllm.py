"""GRPO on rollouts of TRL's vLLM: what TRL is told and gives, with what draws them replaced and its signatures kept."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
from grpo_parts import section
from training_parts import training_run
from trl.generation.vllm_generation import VLLMGeneration

from safereason.data.example import Example
from safereason.engines.open import load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.recipe.schema import GRPO
from safereason.rewards import open_reward
from safereason.runs.records import RecordLog, read_records
from safereason.stages import rl
from safereason.text.chat import prompt_ids, user
from safereason.training import grpo, rollouts
from safereason.training.arguments import vllm_arguments

Draw = Callable[[list[list[int]]], list[list[int]]]


def drawing(draw: Draw) -> type:
    """A stand-in for TRL's class, which keeps what it is made and requested with."""

    class Stand:
        arguments: dict[str, Any]
        syncs = 0
        calls: list[tuple[list[list[int]], int]]

        def __init__(self, *args: Any, **named: Any) -> None:
            bound = inspect.signature(VLLMGeneration.__init__).bind(self, *args, **named)
            type(self).arguments, type(self).calls = dict(bound.arguments), []

        def sync_weights(self) -> None:
            type(self).syncs += 1

        def generate(self, *args: Any, **named: Any) -> tuple[Any, ...]:
            arguments = inspect.signature(VLLMGeneration.generate).bind(self, *args, **named).arguments
            self.calls.append((arguments["prompts"], arguments["num_generations"]))
            drawn = draw(arguments["prompts"])
            # Far from what the model would say, so that a correction would show.
            return arguments["prompts"], drawn, [[[-3.0] for _ in ids] for ids in drawn], None

    return Stand


@pytest.mark.parametrize("rollouts_by", ["vllm-colocate", "vllm-server"])
def test_a_training_on_vllms_rollouts_is_that_on_the_same_ones_of_our_engine(
    rollouts_by, micro_model, tmp_path, monkeypatch
):
    drawn: list[list[list[int]]] = []
    whole = rollouts.EngineSampler.draw

    def kept(self, *arguments):
        drawn.append(whole(self, *arguments))
        return drawn[-1]

    monkeypatch.setattr(rollouts.EngineSampler, "draw", kept)
    losses = []
    for who in ("engine", rollouts_by):
        folder = tmp_path / who
        chosen = section(rollouts=who, kl_coef=1e-3, max_steps=2)
        if who != "engine":
            left = iter(drawn)
            trained(chosen, micro_model, folder, monkeypatch, lambda prompts, left=left: next(left))
        else:
            train(chosen, micro_model, folder)
        losses.append([(row["loss"], row["grad_norm"], row["kl"]) for row in read_records(folder / "metrics.jsonl")])
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]


def train(section_: GRPO, model: Path, folder: Path) -> None:
    """Trains two steps on two prompts a step."""
    kinds = ("harmful", "harmless")
    examples = [Example(f"own/{i}", f"{kinds[i % 2]} {i}", kinds[i % 2], "own") for i in range(4)]
    with RecordLog(folder / "metrics.jsonl") as metrics, RecordLog(folder / "rollouts.jsonl") as log:
        grpo.train(training_run(section_, model, folder, metrics), examples, open_reward(section_.reward), log)


def trained(
    section_: GRPO, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, draw: Draw, *, sleeps: bool = True
) -> Any:
    """Trains on what a stand-in for vLLM draws, on a platform where it can sleep or not; gives the stand-in."""
    stand = drawing(draw)
    monkeypatch.setattr("trl.generation.vllm_generation.VLLMGeneration", stand)
    monkeypatch.setattr("safereason.engines.vllm.can_sleep", lambda: sleeps)
    monkeypatch.setattr(rollouts, "TransformersEngine", _not_asked)
    train(section_, model, folder)
    return stand


def _not_asked(*args: Any, **named: Any) -> None:
    raise AssertionError("our engine drew rollouts")


def test_vllm_is_asked_with_the_prompts_ids_and_the_reward_reads_the_text(micro_model, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(ModelSpec.parse(str(micro_model)))
    texts = ["<think>\nhm\n</think>\n\nI can't help with that.", "I can't help with that."]
    ids = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]
    chosen = section(rollouts="vllm-colocate", rollouts_per_prompt=2, micro_batch_size=4, max_steps=2)
    stand = trained(
        chosen, micro_model, tmp_path, monkeypatch, lambda prompts: [ids[i % 2] for i in range(len(prompts))]
    )
    assert stand.syncs == 2, "the weights go over once a step"
    records = list(read_records(tmp_path / "rollouts.jsonl"))
    prompts_drawn = [prompt for prompts, n in stand.calls for prompt in prompts]
    # The prefix `<think>\n` stands in evaluations alone: here the model writes it.
    assert prompts_drawn == [prompt_ids(tokenizer, user(record["prompt"])) for record in records]
    assert {n for _, n in stand.calls} == {2}
    assert [record["text"] for record in records] == texts * 4
    assert [record["parts"]["format"] for record in records] == [1.0, 0.0] * 4
    assert [r["total"] for r in records if r["kind"] == "harmful"] == [1.0, 0.0] * 2
    assert {record["finish_reason"] for record in records} == {"stop"}
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_vllm_is_told_the_sampling_and_its_share(micro_model, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(ModelSpec.parse(str(micro_model)))
    drawn = {"temperature": 0.6, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.1, "max_new_tokens": 5}
    chosen = section(rollouts="vllm-colocate", max_steps=1, sampling=drawn, vllm={"memory_share": 0.4})
    end = tokenizer.eos_token_id
    arguments = trained(
        chosen, micro_model, tmp_path, monkeypatch, lambda prompts: [[65, end]] * len(prompts)
    ).arguments
    expected = {
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 7,
        "repetition_penalty": 1.1,
        "max_completion_length": 5,
        "mode": "colocate",
        "gpu_memory_utilization": 0.4,
        "max_model_length": 64 + 5,
        "enable_sleep_mode": True,
        "trust_remote_code": False,
    }
    assert {key: arguments[key] for key in expected} == expected


NO_SLEEP = "rollouts: vLLM cannot sleep on this platform, so that it keeps its memory while the loss is computed"


@pytest.mark.parametrize(
    ("rollouts_by", "sleep", "can", "requested"),
    [
        ("vllm-colocate", True, True, True),
        ("vllm-colocate", True, False, False),
        ("vllm-colocate", False, True, False),
        ("vllm-server", True, False, None),
    ],
)
def test_vllm_sleeps_where_it_shares_the_gpu_and_can(
    rollouts_by, sleep, can, requested, micro_model, tmp_path, monkeypatch, capsys
):
    end = load_tokenizer(ModelSpec.parse(str(micro_model))).eos_token_id
    chosen = section(rollouts=rollouts_by, max_steps=1, vllm={"sleep": sleep})
    stand = trained(chosen, micro_model, tmp_path, monkeypatch, lambda prompts: [[65, end]] * len(prompts), sleeps=can)
    assert stand.arguments.get("enable_sleep_mode") is requested
    is_told = rollouts_by == "vllm-colocate" and sleep and not can
    assert capsys.readouterr().err.count(NO_SLEEP) == is_told


def test_vllm_is_told_where_the_template_ends_a_turn(tmp_path, monkeypatch):
    tokens = families.tokenizer("gemma")
    folder = families.save(tmp_path / "start", tokens)
    end = tokens.convert_tokens_to_ids("<end_of_turn>")
    chosen = section(rollouts="vllm-colocate", max_steps=1, extra={"generation_kwargs": {"min_p": 0.1}})
    arguments = trained(chosen, folder, tmp_path, monkeypatch, lambda prompts: [[65, end]] * len(prompts)).arguments
    assert arguments["generation_kwargs"] == {"stop_token_ids": sorted([tokens.eos_token_id, end]), "min_p": 0.1}
    assert {record["finish_reason"] for record in read_records(tmp_path / "rollouts.jsonl")} == {"stop"}
    (step,) = read_records(tmp_path / "metrics.jsonl")
    assert step["completions/clipped_ratio"] == 0


def arguments_of(processes: int = 4, **changes: Any) -> dict[str, Any]:
    chosen = section(prompts_per_step=4, rollouts_per_prompt=3, micro_batch_size=3, **changes)
    return vllm_arguments(chosen, processes, "rl", [])


def test_a_copy_draws_the_rollouts_of_its_processes():
    beside = arguments_of(rollouts="vllm-colocate", vllm={"memory_share": 0.5, "tensor_parallel": 2})
    assert (beside["mode"], beside["gpu_memory_utilization"], beside["tensor_parallel_size"]) == ("colocate", 0.5, 2)
    assert (beside["max_model_length"], beside["max_num_seqs"]) == (64 + 40, 6)
    apart = arguments_of(rollouts="vllm-server", vllm={"server": "http://gpu-2:8000"})
    assert (apart["mode"], apart["server_base_url"]) == ("server", "http://gpu-2:8000")
    assert arguments_of() == {}


@pytest.mark.parametrize(("processes", "size"), [(1, 2), (4, 3)])
def test_copies_that_the_processes_do_not_fill_are_refused(processes: int, size: int):
    with pytest.raises(
        InputError, match=rf"rl\.vllm\.tensor_parallel: {size} GPUs a copy do not divide the {processes}"
    ):
        arguments_of(processes, rollouts="vllm-colocate", vllm={"tensor_parallel": size})


@pytest.mark.parametrize("who", ["vllm-colocate", "vllm-server"])
def test_what_is_missing_for_vllm_is_said(who: str, monkeypatch: pytest.MonkeyPatch):
    chosen = section(rollouts=who)
    monkeypatch.setattr("safereason.engines.vllm.is_installed", lambda: False)
    with pytest.raises(InputError, match=rf"rl\.rollouts: {who} needs vLLM; `pip install 'safereason\[vllm\]'`"):
        rl.check_rollouts(chosen, "rl")
    monkeypatch.setattr("safereason.engines.vllm.is_installed", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=rf"rl\.rollouts: {who} needs a GPU; pass rl\.rollouts=engine"):
        rl.check_rollouts(chosen, "rl")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    rl.check_rollouts(chosen, "rl")
    rl.check_rollouts(section(), "rl")
