"""The recipe's reward as verl's custom reward function: the same code that scores a rollout under TRL.

verl 0.9 calls `compute_score` once a rollout, many at a time on one event loop. A rollout that cannot be scored raises:
verl then trains on the rest of its group, and its log holds the reason. There is no number that would do: verl turns a
0 into an advantage, and a NaN into NaN weights.
"""

import asyncio
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from safereason.recipe.schema import RSafeReward, TarsReward
from safereason.rewards import open_reward
from safereason.rewards.base import Reward, RewardParts, RewardRow
from safereason.rewards.rsafe import VerdictReward
from safereason.runs.records import read_json, write_json


class Unscored(RuntimeError):
    """A rollout has no reward; the message says why."""


async def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any], *, config: str, **_: Any
) -> dict[str, float]:
    """The rollout's reward as `score`, and its parts that are numbers.

    Args:
        data_source: Where the prompt is from; not looked at.
        solution_str: The policy's text, special tokens left out; what the chat template opened comes before it.
        ground_truth: The row's label or kind; `extra_info` holds both.
        extra_info: `user`, `kind`, `label` and `response` of the row.
        config: The file that `write_config` wrote.

    Raises:
        Unscored: The part that decides has no score.
    """
    scorer = _scorer(config)
    text = scorer.opening + solution_str
    row = RewardRow(extra_info["user"], extra_info["kind"], text, extra_info["label"], extra_info["response"])
    parts = await scorer.score(row)
    if parts.total is None:
        raise Unscored(f"{extra_info['id']}: {parts.reason}")
    return {"score": parts.total, **{name: value for name, value in parts.parts.items() if value is not None}}


def write_config(path: Path, reward: TarsReward | RSafeReward, reasoning: bool | None, opening: str = "") -> None:
    """Writes what `compute_score` opens its reward by.

    Args:
        path: The file.
        reward: The recipe's.
        reasoning: Whether a guard is to reason.
        opening: The reasoning that the chat template opens, which is part of what format checks see.
    """
    write_json(path, {"reward": reward.model_dump(mode="json"), "reasoning": reasoning, "opening": opening})


class Scorer:
    """Scores together the rollouts that wait together, away from the event loop."""

    def __init__(self, reward: Reward, opening: str = "") -> None:
        self.opening = opening
        self._reward = reward
        self._waiting: list[tuple[RewardRow, asyncio.Future[RewardParts]]] = []
        self._lock = asyncio.Lock()

    async def score(self, row: RewardRow) -> RewardParts:
        """What the row earns; a judge that breaks down raises for every row that was scored with it."""
        result: asyncio.Future[RewardParts] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, result))
        async with self._lock:
            if not result.done():
                await self._score_waiting()
        return await result

    async def _score_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            scored = await asyncio.to_thread(self._reward.score, [row for row, _ in batch])
        except Exception as error:
            for _, result in batch:
                result.set_exception(error)
            return
        for (_, result), parts in zip(batch, scored, strict=True):
            result.set_result(parts)


@cache
def _scorer(config: str) -> Scorer:
    document = read_json(Path(config))
    opening = document.get("opening", "")  # a folder that was exported before has none
    section: TarsReward | RSafeReward = TypeAdapter(TarsReward | RSafeReward).validate_python(document["reward"])
    if isinstance(section, RSafeReward):
        verdicts = VerdictReward(section.accuracy_weight, section.format_weight, document["reasoning"])
        return Scorer(verdicts, opening)
    return Scorer(open_reward(section), opening)
