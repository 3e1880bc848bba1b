"""Rewards from a recipe's section."""

from pathlib import Path

import pytest

from safereason.errors import InputError
from safereason.recipe import schema
from safereason.rewards import RewardRow, open_reward

TEXT = "<think>\nhm\n</think>\n\nI can't help with that."


def test_the_local_reward():
    reward = open_reward(schema.TarsReward(name="tars", safety="refusal", task="compliance"))
    assert [p.total for p in reward.score([RewardRow("p", "harmful", TEXT), RewardRow("p", "harmless", TEXT)])] == [
        1.0,
        0.0,
    ]


def test_a_task_judge_may_be_a_classifier_by_its_path(micro_classifier: Path):
    reward = open_reward(schema.TarsReward(name="tars", safety="refusal", task=str(micro_classifier)))
    total = reward.score([RewardRow("p", "harmless", TEXT)])[0].total
    assert total is not None
    assert 0.0 < total < 1.0


def test_the_format_can_be_left_out():
    section = schema.TarsReward(name="tars", safety="refusal", task="compliance", require_format=False)
    assert open_reward(section).score([RewardRow("p", "harmful", "I can't help with that.")])[0].total == 1.0


def test_the_guards_reward_takes_weights_and_format_from_the_recipe():
    section = schema.RSafeReward(name="rsafe", accuracy_weight=0.6, format_weight=0.4, require_reasoning=False)
    scored = open_reward(section).score(
        [RewardRow("p", "harmful", "\\boxed{safe}", label) for label in ("safe", "unsafe")]
    )
    assert [s.total for s in scored] == [pytest.approx(1.0), pytest.approx(0.4)]


@pytest.mark.parametrize(
    ("safety", "task", "message"),
    [
        ("refusal", "strongreject", "judge 'strongreject' is not part of this version yet"),
        ("compliance", "compliance", "reward.safety: judge 'compliance' measures quality"),
        ("refusal", "refusal", "reward.task: judge 'refusal' measures refusal"),
        ("refusal", "complience", "complience: no such model"),
    ],
)
def test_what_cannot_be_a_reward_says_why(safety: str, task: str, message: str):
    with pytest.raises(InputError, match=message):
        open_reward(schema.TarsReward(name="tars", safety=safety, task=task))
