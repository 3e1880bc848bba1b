"""Rewards: judges' scores and format checks put together into what GRPO maximises."""

from safereason.judges import JUDGES, NOT_YET, open_judge
from safereason.recipe import schema
from safereason.rewards.base import Reward, RewardParts, RewardRow
from safereason.rewards.tars import TarsReward

__all__ = ["Reward", "RewardParts", "RewardRow", "open_reward"]


def open_reward(section: schema.TarsReward) -> Reward:
    """Opens the reward of a recipe's section, with its judges.

    Raises:
        InputError: A judge is unknown, cannot be opened, or measures something else than the reward needs.
    """
    known = section.task.partition(":")[0] in (*JUDGES, *NOT_YET)
    task = section.task if known else f"reward-model:{section.task}"
    return TarsReward(open_judge(section.safety), open_judge(task), section.require_format)
