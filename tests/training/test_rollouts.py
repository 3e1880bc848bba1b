"""Rollouts of the model being trained: who draws them, in which order, and what is written about them."""

from types import SimpleNamespace

import pytest
import torch
from grpo_parts import make_trainer, perturb, section

from safereason.data.example import Example
from safereason.engines.base import Sampling
from safereason.engines.open import load_model, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.engines.transformers import TransformersEngine, end_of_turn_ids
from safereason.errors import StageFailed
from safereason.rewards.base import RewardParts, RewardRow
from safereason.text.chat import prompt_ids, user
from safereason.training.rollouts import RewardFunction, rollout_function, trained_example

SAMPLING = Sampling(temperature=1.0, max_new_tokens=12)
PROMPTS = ["Why?", "A much longer prompt, so that batches are sorted differently.", "How?"]


def repeated(n: int) -> list:
    return [user(prompt) for prompt in PROMPTS for _ in range(n)]


@pytest.fixture
def trainer(micro_model, tmp_path):
    return make_trainer(micro_model, tmp_path, section(sampling=SAMPLING, rollouts_per_prompt=4, micro_batch_size=4))


@pytest.fixture(scope="module")
def tokenizer(micro_model):
    return load_tokenizer(ModelSpec.parse(str(micro_model)))


def drawn(trainer, prompts, seed=3, batch_tokens=16_384):
    return rollout_function(SAMPLING, seed, batch_tokens)(prompts, trainer)


def test_a_completion_for_each_prompt_in_order(trainer, tokenizer):
    result = drawn(trainer, repeated(4))
    assert result["prompt_ids"] == [prompt_ids(tokenizer, user(p)) for p in PROMPTS for _ in range(4)]
    assert result["logprobs"] is None
    assert len(result["completion_ids"]) == 12
    assert all(1 <= len(ids) <= 12 for ids in result["completion_ids"])
    groups = [result["completion_ids"][start : start + 4] for start in range(0, 12, 4)]
    assert all(len(set(map(tuple, group))) == 4 for group in groups)


def test_the_same_seed_and_step_draw_the_same(trainer):
    first = drawn(trainer, repeated(4))
    assert drawn(trainer, repeated(4)) == first
    assert drawn(trainer, repeated(4), seed=4)["completion_ids"] != first["completion_ids"]
    trainer.state.global_step = 1
    assert drawn(trainer, repeated(4))["completion_ids"] != first["completion_ids"]


@pytest.mark.parametrize("processes", [2, 3, 4, 6])
def test_several_processes_draw_what_one_would(trainer, monkeypatch, processes):
    """Each draws its own part of a step: whole groups, or halves or quarters of groups."""
    whole = drawn(trainer, repeated(4))
    share = 12 // processes
    parts = []
    for index in range(processes):
        monkeypatch.setattr(type(trainer.accelerator), "process_index", property(lambda self, index=index: index))
        parts.append(drawn(trainer, repeated(4)[index * share : (index + 1) * share]))
    for name in ("prompt_ids", "completion_ids"):
        assert [row for part in parts for row in part[name]] == whole[name]


def test_the_current_weights_draw(trainer, micro_model, tokenizer):
    before = drawn(trainer, repeated(4))
    perturb(trainer.model, scale=0.5)
    after = drawn(trainer, repeated(4))
    assert after["completion_ids"] != before["completion_ids"]
    other = load_model(str(micro_model))
    other.load_state_dict(trainer.model.state_dict())
    engine = TransformersEngine(other, tokenizer, name="copy")
    greedy = Sampling(temperature=0.0, max_new_tokens=12)
    by_rollout = rollout_function(greedy, 0, 16_384)(repeated(4), trainer)["completion_ids"]
    one_by_one = [list(engine.generate([prompt], greedy)[0][0].token_ids) for prompt in repeated(4)]
    assert by_rollout == one_by_one
    assert len(set(map(tuple, one_by_one))) == len(PROMPTS)


def test_the_model_goes_on_training_as_it_was(trainer):
    trainer.model.train()
    drawn(trainer, repeated(4))
    assert trainer.model.training
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_adapters_draw(micro_model, tmp_path):
    trainer = make_trainer(
        micro_model, tmp_path, section(sampling=SAMPLING, rollouts_per_prompt=4, micro_batch_size=4, lora={"rank": 4})
    )
    before = drawn(trainer, repeated(4))
    perturb(trainer.model, scale=0.5)
    assert drawn(trainer, repeated(4))["completion_ids"] != before["completion_ids"]


class Reward:
    """Scores a text by its length; what is shorter than two characters is unscored."""

    def __init__(self) -> None:
        self.rows = []

    def score(self, rows):
        self.rows += rows
        return [
            RewardParts(None, {"length": None, "words": 0.0}, "too short")
            if len(row.text) < 2
            else RewardParts(float(len(row.text)), {"length": float(len(row.text)), "words": None})
            for row in rows
        ]


@pytest.fixture
def called(micro_model, tokenizer):
    recorded, logged, reward = [], [], Reward()
    ends = end_of_turn_ids(load_model(str(micro_model)), tokenizer)
    function = RewardFunction(reward, tokenizer, ends, recorded.extend)
    texts = ["<think>\nwell", "a", "so</think>4"]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    totals = function(
        prompts=[user(prompt) for prompt in PROMPTS],
        completions=None,
        completion_ids=[[*ids[0], tokenizer.eos_token_id], ids[1], ids[2]],
        example=[
            trained_example(Example("s/1", PROMPTS[0], "harmful", "s")),
            trained_example(
                Example("s/2", "the user's own words", "harmless", "s", response="an answer", label="safe")
            ),
            trained_example(Example("s/3", PROMPTS[2], "ambiguous", "s")),
        ],
        trainer_state=SimpleNamespace(global_step=6),
        log_metric=lambda name, value: logged.append((name, value)),
    )
    return SimpleNamespace(totals=totals, recorded=recorded, logged=logged, rows=reward.rows)


def test_an_unscored_rollout_stays_none(called):
    assert called.totals == [12.0, None, 11.0]


def test_the_reward_sees_what_was_said_and_its_label_and_not_how_it_was_asked(called):
    assert called.rows == [
        RewardRow(PROMPTS[0], "harmful", "<think>\nwell", None, None),
        RewardRow("the user's own words", "harmless", "a", "safe", "an answer"),
        RewardRow(PROMPTS[2], "ambiguous", "so</think>4", None, None),
    ]


def test_every_rollout_is_recorded_with_its_parts(called):
    assert called.recorded[0] == {
        "step": 7,
        "id": "s/1",
        "prompt": PROMPTS[0],
        "kind": "harmful",
        "text": "<think>\nwell",
        "total": 12.0,
        "parts": {"length": 12.0, "words": None},
        "reason": None,
        "failed": False,
        "finish_reason": "stop",
        "tokens": 13,
    }
    assert called.recorded[1]["label"] == "safe"
    assert called.recorded[1]["response"] == "an answer"
    assert [r["finish_reason"] for r in called.recorded] == ["stop", "length", "length"]
    assert (called.recorded[1]["total"], called.recorded[1]["reason"]) == (None, "too short")


def test_means_of_the_scored_parts_are_logged(called):
    third = pytest.approx(1 / 3)
    assert dict(called.logged) == {
        "length": 11.5,
        "words": 0.0,
        "closed": third,
        "unscored": third,
        "judge_failed": 0.0,
    }


class Broken:
    """A reward whose judge fails at texts with a question mark."""

    def score(self, rows):
        return [
            RewardParts(None, {"format": 1.0}, "HTTP 503", failed=True)
            if "?" in row.text
            else RewardParts(0.0, {"format": 0.0})
            if "<" not in row.text
            else RewardParts(1.0, {"format": 1.0, "task": 1.0}, judged=True)
            for row in rows
        ]


@pytest.mark.parametrize(
    ("texts", "share"), [(["<a>", "b?", "c"], 1 / 3), (["a", "b", "c"], 0), (["<a?>", "b", "c?"], None)]
)
def test_rollouts_whose_verdict_failed_are_counted_and_nothing_but_those_ends_the_training(
    micro_model, tokenizer, texts, share
):
    recorded, logged = [], {}
    ends = end_of_turn_ids(load_model(str(micro_model)), tokenizer)
    function = RewardFunction(Broken(), tokenizer, ends, recorded.extend)

    def score():
        return function(
            prompts=[user("x")] * 3,
            completion_ids=[tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
            example=[trained_example(Example(number, "x", "harmless", "own")) for number in "123"],
            trainer_state=SimpleNamespace(global_step=6),
            log_metric=logged.__setitem__,
        )

    if share is None:
        with pytest.raises(StageFailed, match=r"step 7: all 2 verdicts failed \(HTTP 503\), so that there is nothing"):
            score()
    else:
        assert [total is None for total in score()] == ["?" in text for text in texts]
    assert logged["judge_failed"] == pytest.approx(sum("?" in text for text in texts) / 3)
    assert [record["failed"] for record in recorded] == ["?" in text for text in texts]


def test_a_step_of_training_draws_scores_and_logs(micro_model, tmp_path, tokenizer):
    recorded = []
    trainer = make_trainer(micro_model, tmp_path, section(sampling=SAMPLING, kl_coef=0.1))
    trainer.rollout_func = rollout_function(SAMPLING, 0, 16_384)
    trainer.reward_funcs = [RewardFunction(Reward(), tokenizer, {tokenizer.eos_token_id}, recorded.extend)]
    examples = [
        trained_example(Example("s/1", "Why?", "harmful", "s", label="safe")),
        trained_example(Example("s/2", "How?", "harmless", "s", label="safe", response="So.")),
    ]
    trainer.train_dataset = trainer.train_dataset.add_column("example", examples)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["unscored"] == sum(record["total"] is None for record in recorded) / 12
    scored = [record["total"] for record in recorded if record["total"] is not None]
    assert logged["reward"] == pytest.approx(sum(scored) / len(scored))
    assert [record["id"] for record in recorded[:6]] == [recorded[0]["id"]] * 6
    assert {record["step"] for record in recorded} == {1}
    assert torch.isfinite(torch.tensor(logged["loss"]))
