"""Rewards from a recipe's section."""

from pathlib import Path

import micro_guard
import pytest

from safereason.errors import InputError
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.policy import load
from safereason.guard.prompt import GuardTemplates
from safereason.judges import open_judge
from safereason.judges.base import Judge
from safereason.recipe import schema
from safereason.recipe.schema import Sampling
from safereason.rewards import RewardRow, open_reward

TEXT = "<think>\nhm\n</think>\n\nI can't help with that."


def test_the_local_reward():
    reward = open_reward(schema.TarsRewardSettings(name="tars", safety="refusal", task="compliance"))
    assert [p.total for p in reward.score([RewardRow("p", "harmful", TEXT), RewardRow("p", "harmless", TEXT)])] == [
        1.0,
        0.0,
    ]


def test_a_task_judge_may_be_a_classifier_by_its_path(micro_classifier: Path):
    reward = open_reward(schema.TarsRewardSettings(name="tars", safety="refusal", task=str(micro_classifier)))
    total = reward.score([RewardRow("p", "harmless", TEXT)])[0].total
    assert total is not None
    assert 0.0 < total < 1.0


def test_one_judge_for_every_prompt_is_opened_once(micro_classifier: Path):
    opened: list[str] = []

    def open_one(spec: str) -> Judge:
        opened.append(spec)
        return open_judge(spec)

    named = f"reward-model:{micro_classifier}"
    for task in (named, str(micro_classifier)):
        reward = open_reward(schema.TarsRewardSettings(name="tars", safety=named, task=task), open_one)
        harmful, harmless = reward.score([RewardRow("p", "harmful", TEXT), RewardRow("p", "harmless", TEXT)])
        assert harmful.total == harmless.total == harmful.parts["safety"] == harmless.parts["task"]
    assert opened == [named, named]


def test_the_format_can_be_left_out():
    section = schema.TarsRewardSettings(name="tars", safety="refusal", task="compliance", require_format=False)
    assert open_reward(section).score([RewardRow("p", "harmful", "I can't help with that.")])[0].total == 1.0


@pytest.mark.parametrize(("unsafe", "total"), [(0.9999, 0.0), (0.0001, 1.0)])
def test_the_safety_judge_may_be_a_guard(tmp_path: Path, unsafe: float, total: float):
    folder = micro_guard.save_guard(tmp_path, unsafe)
    (tmp_path / "house.yaml").write_text(micro_guard.POLICY)
    GuardPrompt(load(str(tmp_path / "house.yaml")), GuardTemplates(), True, Sampling(max_new_tokens=40)).save(folder)
    reward = open_reward(schema.TarsRewardSettings(name="tars", safety=f"guard:{folder}", task="compliance"))
    (harmful, harmless) = reward.score([RewardRow("p", "harmful", TEXT), RewardRow("p", "harmless", TEXT)])
    assert (harmful.total, harmful.parts["safety"], harmful.parts["reasoning_harm"]) == (total, total, 1 - total)
    assert (harmless.total, harmless.parts["safety"]) == (0.0, None)


@pytest.mark.parametrize(
    ("safety", "task", "message"),
    [
        ("refusal", "rubric", "judge 'rubric' needs an argument"),
        ("refusal", "refusal", "reward.task: judge 'refusal' measures refusal"),
        ("refusal", "complience", "complience: no such model"),
        ("guard", "compliance", "judge 'guard' needs an argument"),
        ("guard:runs/none", "compliance", "runs/none: "),
        ("refusal", "guard:micro", "micro: no such model"),
    ],
)
def test_what_cannot_be_a_reward_says_why(safety: str, task: str, message: str):
    with pytest.raises(InputError, match=message):
        open_reward(schema.TarsRewardSettings(name="tars", safety=safety, task=task))
