"""The loop of GRPO: what a step logs and records, its checkpoints, and a resume in the middle."""

import shutil
from pathlib import Path

import pytest
import torch
from grpo_parts import section
from safetensors.torch import load_file
from training_parts import training_run
from transformers import get_scheduler

from safereason.data.example import Example
from safereason.recipe.schema import GRPO
from safereason.rewards.base import RewardParts
from safereason.runs.records import RecordLog, read_records
from safereason.training import grpo
from safereason.training.arguments import lr_scheduler
from safereason.training.resume import last_checkpoint

KINDS = ("harmful", "harmless")
EXAMPLES = [Example(f"own/{i}", f"Prompt {i}?", KINDS[i % 2], "own") for i in range(10)]
SMALL = {"rollouts_per_prompt": 2, "micro_batch_size": 2, "sampling": {"max_new_tokens": 6}, "max_steps": 4}


class Lengths:
    """A reward by the length of a text; every third rollout is unscored."""

    def __init__(self) -> None:
        self.calls = 0

    def score(self, rows):
        self.calls += 1
        parts = []
        for i, row in enumerate(rows):
            total = None if i == 2 else float(len(row.text) % 5)
            parts.append(RewardParts(total, {"length": total}, None if total is not None else "no verdict"))
        return parts


class Killed(Exception):
    """The training ends here."""


def train(chosen: GRPO, model: Path, folder: Path, **given) -> Path:
    """Trains, or goes on from the last checkpoint."""
    checkpoint, done = last_checkpoint(folder / "checkpoints") or (None, 0)
    with RecordLog(folder / "metrics.jsonl") as metrics, RecordLog(folder / "rollouts.jsonl") as log:
        run = training_run(chosen, model, folder, metrics, resume_from=checkpoint, steps_done=done)
        grpo.train(run, EXAMPLES, given.pop("reward", Lengths()), log, **given)
    return folder


def records(folder: Path, name: str = "metrics") -> list[dict]:
    return [{k: v for k, v in record.items() if k != "step_time"} for record in read_records(folder / f"{name}.jsonl")]


@pytest.fixture(scope="module")
def whole(micro_model, tmp_path_factory) -> Path:
    """A training of four steps, a checkpoint after each second one."""
    folder = tmp_path_factory.mktemp("whole")
    return train(section(**SMALL, save_steps=2, kl_coef=0.1, lr_schedule="linear"), micro_model, folder)


def test_a_step_logs_its_figures(whole):
    steps = records(whole)
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert steps[0].keys() >= {
        "loss",
        "kl",
        "entropy",
        "grad_norm",
        "learning_rate",
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "length",
        "closed",
        "unscored",
        "judge_failed",
        "completions/mean_length",
        "completions/clipped_ratio",
        "num_tokens",
        "epoch",
    }
    assert [step["learning_rate"] for step in steps] == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    assert steps[0]["kl"] == pytest.approx(0.0, abs=1e-7)
    assert steps[3]["kl"] > 0
    assert {step["unscored"] for step in steps} == {0.25}
    assert [step["epoch"] for step in steps] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_the_figures_of_a_step_are_those_of_its_rollouts(whole):
    rollouts = records(whole, "rollouts")
    assert len(rollouts) == 16
    tokens = 0
    for step in records(whole):
        own = [row for row in rollouts if row["step"] == step["step"]]
        totals = [row["total"] for row in own if row["total"] is not None]
        assert (len(own), len(totals)) == (4, 3)
        assert step["reward"] == pytest.approx(sum(totals) / 3)
        assert step["reward_std"] == pytest.approx(float(torch.tensor(totals).std()))
        lengths = [row["tokens"] for row in own]
        assert step["completions/mean_length"] == pytest.approx(sum(lengths) / 4)
        assert step["completions/clipped_ratio"] == sum(row["finish_reason"] == "length" for row in own) / 4
        assert step["num_tokens"] > tokens + sum(lengths)
        tokens = step["num_tokens"]


def test_two_checkpoints_are_kept(micro_model, tmp_path):
    train(section(**SMALL, save_steps=1), micro_model, tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["checkpoint-3", "checkpoint-4"]
    assert all((tmp_path / "checkpoints" / name / "complete").is_file() for name in names)


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "adapters"])
def test_a_training_that_is_cut_goes_on_to_the_same_end(micro_model, tmp_path, lora):
    chosen = section(**SMALL, save_steps=2, kl_coef=0.1, lr_schedule="cosine", lora=lora, weight_decay=0.1)
    uncut = train(chosen, micro_model, tmp_path / "uncut")

    def die(step, metrics):
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(chosen, micro_model, tmp_path / "cut", watch=die)
    (tmp_path / "cut" / "metrics.jsonl").unlink()
    resumed = train(chosen, micro_model, tmp_path / "cut")
    assert records(resumed) == records(uncut)[2:]
    weights, expected = (load_file(folder / "model" / "model.safetensors") for folder in (resumed, uncut))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_training_that_was_cut_after_its_last_step_writes_its_model(whole, micro_model, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    reward = Lengths()
    chosen = section(**SMALL, save_steps=2, kl_coef=0.1, lr_schedule="linear")
    train(chosen, micro_model, tmp_path / "run", reward=reward)
    assert reward.calls == 0
    weights, expected = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "run", whole))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_model_is_validated_before_the_first_step_and_after_each(micro_model, tmp_path):
    seen = []
    train(section(**SMALL), micro_model, tmp_path, validate=lambda step, model, is_last: seen.append((step, is_last)))
    assert seen == [(0, False), (1, False), (2, False), (3, False), (4, True)]


@pytest.mark.parametrize(("schedule", "warmup"), [("constant", 0.5), ("linear", 0.25), ("cosine", 0.0)])
def test_the_learning_rate_is_transformers_own(micro_model, tmp_path, schedule, warmup):
    chosen = section(**SMALL, lr_schedule=schedule, warmup_ratio=warmup)
    train(chosen, micro_model, tmp_path)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    course = get_scheduler(lr_scheduler(chosen), optimizer, int(4 * warmup), 4)
    expected = []
    for _ in range(4):
        expected.append(course.get_last_lr()[0])
        optimizer.step()
        course.step()
    assert [step["learning_rate"] for step in records(tmp_path)] == pytest.approx(expected)
    assert len(set(expected)) > 1


def test_a_gradient_is_clipped_to_its_norm(micro_model, tmp_path):
    with RecordLog(tmp_path / "metrics.jsonl") as metrics:
        trained = grpo.open_trained_model(training_run(section(), micro_model, tmp_path, metrics), steps=1)
    for weight in trained.model.parameters():
        weight.grad = torch.ones_like(weight)
    count = sum(weight.numel() for weight in trained.model.parameters())
    kept = []
    trained.optimizer.register_step_pre_hook(
        lambda *given: kept.extend(weight.grad.clone() for weight in trained.model.parameters())
    )
    assert grpo.update(trained, 0.5) == pytest.approx(count**0.5)
    assert sum(float(grad.square().sum()) for grad in kept) ** 0.5 == pytest.approx(0.5, rel=1e-4)
    assert all(weight.grad is None for weight in trained.model.parameters())
