"""GRPO on rollouts of TRL's vLLM: what TRL is told and gives, with what draws them replaced and its signatures kept."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from grpo_parts import make_trainer, one_step, section
from training_parts import training_run
from trl import GRPOConfig
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
from safereason.training.arguments import grpo_arguments

Draw = Callable[[list[list[int]]], list[list[int]]]


def drawing(draw: Draw) -> type:
    """A stand-in for TRL's class, which keeps what it is made and asked with."""

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
def test_the_loss_on_vllms_rollouts_is_that_on_our_engines(rollouts_by, micro_model, tmp_path, monkeypatch):
    def draw(prompts: list[list[int]]) -> list[list[int]]:
        fixed = trainers[-1].fixed
        names = {tuple(ids): name for name, ids in fixed.prompts.items()}
        left = {name: iter(ids) for name, ids in fixed.completions.items()}
        return [next(left[names[tuple(prompt)]]) for prompt in prompts]

    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", drawing(draw))
    trainers: list[Any] = []
    steps = []
    for who in ("engine", rollouts_by):
        chosen = section(rollouts=who, kl_coef=1e-3)
        trainers.append(make_trainer(micro_model, tmp_path / who, chosen))
        steps.append(one_step(trainers[-1]))
    (loss, gradients), (other_loss, other_gradients) = steps
    assert loss == pytest.approx(other_loss, abs=1e-7)
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, other_gradients[name])


def trained(section_: GRPO, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, draw: Draw) -> Any:
    """Trains two steps on two prompts a step; gives the stand-in."""
    stand = drawing(draw)
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", stand)
    monkeypatch.setattr(rollouts, "TransformersEngine", _not_asked)
    kinds = ("harmful", "harmless")
    examples = [Example(f"own/{i}", f"{kinds[i % 2]} {i}", kinds[i % 2], "own") for i in range(4)]
    with RecordLog(folder / "metrics.jsonl") as metrics, RecordLog(folder / "rollouts.jsonl") as log:
        grpo.train(training_run(section_, model, folder, metrics), examples, open_reward(section_.reward), log)
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
        "trust_remote_code": False,
    }
    assert {key: arguments[key] for key in expected} == expected


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


def config_of(processes: int = 4, **changes: Any) -> GRPOConfig:
    chosen = section(prompts_per_step=4, rollouts_per_prompt=3, micro_batch_size=3, **changes)
    return GRPOConfig(**grpo_arguments(chosen, prompts=8, seed=0, output_dir="out", processes=processes))


def test_trl_takes_what_it_is_told_about_vllm():
    beside = config_of(rollouts="vllm-colocate", vllm={"memory_share": 0.5, "tensor_parallel": 2})
    assert (beside.use_vllm, beside.vllm_mode, beside.vllm_importance_sampling_correction) == (True, "colocate", False)
    assert (beside.vllm_gpu_memory_utilization, beside.vllm_tensor_parallel_size) == (0.5, 2)
    assert beside.vllm_max_model_length == 64 + 40
    apart = config_of(rollouts="vllm-server", vllm={"server": "http://gpu-2:8000"})
    assert (apart.use_vllm, apart.vllm_mode, apart.vllm_server_base_url) == (True, "server", "http://gpu-2:8000")
    assert not config_of().use_vllm


@pytest.mark.parametrize(("processes", "size"), [(1, 2), (4, 3)])
def test_copies_that_the_processes_do_not_fill_are_refused(processes: int, size: int):
    with pytest.raises(
        InputError, match=rf"rl\.vllm\.tensor_parallel: {size} GPUs a copy do not divide the {processes}"
    ):
        config_of(processes, rollouts="vllm-colocate", vllm={"tensor_parallel": size})


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
