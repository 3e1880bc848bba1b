"""Rewards: judges' scores and format checks combined into the number that GRPO maximises."""

from collections.abc import Callable

from safereason.judges import is_judge, open_judge
from safereason.judges.base import Judge
from safereason.judges.registry import REWARD_MODEL
from safereason.recipe import schema
from safereason.rewards.base import Reward, RewardParts, RewardRow
from safereason.rewards.tars import TarsReward

__all__ = ["Reward", "RewardParts", "RewardRow", "judges_of", "open_reward"]


def judges_of(section: schema.TarsRewardSettings) -> tuple[str, str]:
    """The judge of safety and the judge of the task, as `open_judge` names them."""
    if is_judge(section.task):
        return section.safety, section.task
    # A task that names no judge is the id of a reward model on the Hub, or its folder.
    return section.safety, f"{REWARD_MODEL}:{section.task}"


def open_reward(section: schema.TarsRewardSettings, open_one: Callable[[str], Judge] = open_judge) -> Reward:
    """The reward of a recipe's section, with its judges opened.

    Args:
        section: The recipe's.
        open_one: Opens a judge by its name, where its model does not run here.

    Raises:
        InputError: A judge is unknown, cannot be opened, or measures something else than the reward needs.
    """
    safety_spec, task_spec = judges_of(section)
    safety = open_one(safety_spec)
    # A judge may be a model of several GB. One that is named twice is loaded once.
    task = safety
    if task_spec != safety_spec:
        task = open_one(task_spec)
    return TarsReward(safety, task, section.require_format)
