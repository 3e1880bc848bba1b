"""Rollouts of the model being trained: what draws them, in which order, and what is written about them."""

from types import SimpleNamespace

import pytest
from grpo_parts import open_training, perturb, section

from safereason.data.example import Example
from safereason.engines.base import Sampling
from safereason.engines.open import load_model, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.engines.transformers import TransformersEngine, end_of_turn_ids
from safereason.errors import StageFailed
from safereason.rewards.base import RewardParts, RewardRow
from safereason.text.chat import user
from safereason.training.rollouts import EngineSampler, Scorer, Share

SAMPLING = Sampling(temperature=1.0, max_new_tokens=12)
PROMPTS = ["Why?", "A much longer prompt, so that batches are sorted differently.", "How?"]
WHOLE = Share(0, 12, 4)
CONVERSATIONS = [user(prompt) for prompt in PROMPTS for _ in range(4)]


@pytest.fixture
def model(micro_model, tmp_path):
    return open_training(micro_model, tmp_path, section(sampling=SAMPLING)).trained.model


@pytest.fixture(scope="module")
def tokenizer(micro_model):
    return load_tokenizer(ModelSpec.parse(str(micro_model)))


def draw(model, tokenizer, share=WHOLE, step=0, seed=3, sampling=SAMPLING):
    return EngineSampler(model, tokenizer, sampling, seed).draw(CONVERSATIONS[share.local], share, step)


def test_a_completion_for_each_prompt_in_order(model, tokenizer):
    completions = draw(model, tokenizer)
    assert len(completions) == 12
    assert all(1 <= len(ids) <= 12 for ids in completions)
    groups = [completions[start : start + 4] for start in range(0, 12, 4)]
    assert all(len(set(map(tuple, group))) == 4 for group in groups)


def test_the_same_seed_and_step_draw_the_same(model, tokenizer):
    first = draw(model, tokenizer)
    assert draw(model, tokenizer) == first
    assert draw(model, tokenizer, seed=4) != first
    assert draw(model, tokenizer, step=1) != first


@pytest.mark.parametrize("processes", [2, 3, 4, 6])
def test_several_processes_draw_what_one_would(model, tokenizer, processes):
    """Each draws its own part of a step: whole groups, or halves or quarters of groups."""
    count = 12 // processes
    parts = [draw(model, tokenizer, Share(index * count, count, 4)) for index in range(processes)]
    assert [ids for part in parts for ids in part] == draw(model, tokenizer)


def test_the_current_weights_draw(model, micro_model, tokenizer):
    before = draw(model, tokenizer)
    perturb(model, scale=0.5)
    assert draw(model, tokenizer) != before
    other = load_model(str(micro_model))
    other.load_state_dict(model.state_dict())
    engine = TransformersEngine(other, tokenizer, name="copy")
    greedy = Sampling(temperature=0.0, max_new_tokens=12)
    one_by_one = [list(engine.generate([prompt], greedy)[0][0].token_ids) for prompt in CONVERSATIONS]
    assert draw(model, tokenizer, sampling=greedy) == one_by_one
    assert len(set(map(tuple, one_by_one))) == len(PROMPTS)


def test_the_model_goes_on_training_as_it_was(model, tokenizer):
    model.train()
    draw(model, tokenizer)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_adapters_draw(micro_model, tmp_path, tokenizer):
    model = open_training(micro_model, tmp_path, section(sampling=SAMPLING, lora={"rank": 4})).trained.model
    before = draw(model, tokenizer)
    perturb(model, scale=0.5)
    assert draw(model, tokenizer) != before


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
def scored(micro_model, tokenizer):
    records, reward = [], Reward()
    ends = end_of_turn_ids(load_model(str(micro_model)), tokenizer)
    texts = ["<think>\nwell", "a", "so</think>4"]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    result = Scorer(reward, tokenizer, ends, records.append).score(
        [
            Example("s/1", PROMPTS[0], "harmful", "s"),
            Example("s/2", "the user's own words", "harmless", "s", response="an answer", label="safe"),
            Example("s/3", PROMPTS[2], "ambiguous", "s"),
        ],
        [user(prompt) for prompt in PROMPTS],
        [[*ids[0], tokenizer.eos_token_id], ids[1], ids[2]],
        7,
    )
    return SimpleNamespace(result=result, records=records, rows=reward.rows)


def test_an_unscored_rollout_stays_none(scored):
    assert scored.result.rewards == [12.0, None, 11.0]


def test_the_reward_sees_what_was_said_and_its_label_and_not_how_it_was_asked(scored):
    assert scored.rows == [
        RewardRow(PROMPTS[0], "harmful", "<think>\nwell", None, None),
        RewardRow("the user's own words", "harmless", "a", "safe", "an answer"),
        RewardRow(PROMPTS[2], "ambiguous", "so</think>4", None, None),
    ]


def test_every_rollout_is_recorded_with_its_parts(scored):
    assert scored.records[0] == {
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
    assert scored.records[1]["label"] == "safe"
    assert scored.records[1]["response"] == "an answer"
    assert [r["finish_reason"] for r in scored.records] == ["stop", "length", "length"]
    assert (scored.records[1]["total"], scored.records[1]["reason"]) == (None, "too short")


def test_the_metrics_are_means_of_the_scored_parts(scored):
    third = pytest.approx(1 / 3)
    assert scored.result.metrics == {
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
    records = []
    ends = end_of_turn_ids(load_model(str(micro_model)), tokenizer)
    scorer = Scorer(Broken(), tokenizer, ends, records.append)
    examples = [Example(number, "x", "harmless", "own") for number in "123"]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    if share is None:
        with pytest.raises(StageFailed, match=r"step 7: all 2 verdicts failed \(HTTP 503\), so that there is nothing"):
            scorer.score(examples, [user("x")] * 3, ids, 7)
    else:
        result = scorer.score(examples, [user("x")] * 3, ids, 7)
        assert [total is None for total in result.rewards] == ["?" in text for text in texts]
        assert result.metrics["judge_failed"] == pytest.approx(share)
    assert [record["failed"] for record in records] == ["?" in text for text in texts]
