"""Rewards: judges' scores and format checks put together into what GRPO maximises."""

from safereason.judges import JUDGES, open_judge
from safereason.recipe import schema
from safereason.rewards.base import Reward, RewardParts, RewardRow
from safereason.rewards.tars import TarsReward

__all__ = ["Reward", "RewardParts", "RewardRow", "judges_of", "open_reward"]


def judges_of(section: schema.TarsReward) -> tuple[str, str]:
    """The judges of safety and of the task, as `open_judge` names them: a task that is none is a reward model."""
    known = section.task.partition(":")[0] in JUDGES
    return section.safety, section.task if known else f"reward-model:{section.task}"


def open_reward(section: schema.TarsReward) -> Reward:
    """Opens the reward of a recipe's section, with its judges; one that is named for both is opened once.

    Raises:
        InputError: A judge is unknown, cannot be opened, or measures something else than the reward needs.
    """
    named, task = judges_of(section)
    safety = open_judge(named)
    return TarsReward(safety, safety if task == named else open_judge(task), section.require_format)
