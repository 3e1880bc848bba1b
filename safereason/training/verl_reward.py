"""The recipe's reward as verl's custom reward function: the same code that scores a rollout in our own loop.

verl 0.9 calls `compute_score` once a rollout, many at a time on one event loop. A rollout that cannot be scored raises
an error: verl then trains on the rest of its group, and its log holds the reason. No number could take the error's
place: verl turns a 0 into an advantage, and a NaN into NaN weights.
"""

import asyncio
from functools import cache
from pathlib import Path
from typing import TypedDict

from pydantic import TypeAdapter

from safereason.data.example import PromptKind
from safereason.errors import InputError
from safereason.judges import JudgeSpec
from safereason.judges.base import Judge
from safereason.judges.registry import REWARD_MODEL
from safereason.recipe.schema import RSafeRewardSettings, TarsRewardSettings
from safereason.rewards import judges_of, open_reward
from safereason.rewards.base import Reward, RewardParts, RewardRow
from safereason.rewards.rsafe import VerdictReward
from safereason.runs.records import read_record, write_json
from safereason.text.verdict import Label


class Unscored(RuntimeError):
    """The error of a rollout without a reward; the message says why."""


class ExtraInfo(TypedDict):
    """The example of a rollout, as `verl_files.write_rows` writes it."""

    id: str
    user: str
    """Text of the example's prompt."""
    kind: PromptKind
    label: Label | None
    response: str | None


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: ExtraInfo,
    *,
    config: str,
    reward_router_address: str | None = None,
    **_: object,
) -> dict[str, float]:
    """The rollout's reward as `score`, and its parts that are numbers.

    Args:
        data_source: Source of the prompt; unused.
        solution_str: The model's text without special tokens, and without the reasoning that the chat template opened.
        ground_truth: The row's label or kind; unused, since `extra_info` holds both.
        extra_info: The row's example.
        config: The file that `write_config` wrote.
        reward_router_address: Host and port of verl's server of the reward model, where there is one.

    Raises:
        Unscored: The part that decides has no score.
    """
    reward = _open_queued_reward(config, reward_router_address)
    text = reward.opening + solution_str
    row = RewardRow(extra_info["user"], extra_info["kind"], text, extra_info["label"], extra_info["response"])
    parts = await reward.score(row)
    if parts.total is None:
        raise Unscored(f"{extra_info['id']}: {parts.reason}")
    scores = {"score": parts.total}
    for name, value in parts.parts.items():
        if value is not None:
            scores[name] = value
    return scores


def write_config(
    path: Path, reward: TarsRewardSettings | RSafeRewardSettings, reasoning: bool | None, opening: str = ""
) -> None:
    """Writes the file that `compute_score` opens its reward from.

    Args:
        path: The file.
        reward: The recipe's.
        reasoning: Whether a guard is to reason.
        opening: The reasoning that the chat template opens; format checks need it.
    """
    write_json(path, {"reward": reward.model_dump(mode="json"), "reasoning": reasoning, "opening": opening})


class QueuedReward:
    """Scores rollouts in batches, in a thread beside the event loop.

    The rollouts that arrive while a batch is being scored are the next batch: a judge on a GPU gets many at once.
    """

    def __init__(self, reward: Reward, opening: str = "") -> None:
        self.opening = opening
        self._reward = reward
        self._waiting: list[tuple[RewardRow, asyncio.Future[RewardParts]]] = []
        self._lock = asyncio.Lock()

    async def score(self, row: RewardRow) -> RewardParts:
        """The row's reward; an error of a judge is raised for every row of the batch."""
        result: asyncio.Future[RewardParts] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, result))
        async with self._lock:
            # The holder of the lock before may have scored this row with its own.
            if not result.done():
                await self._score_waiting()
        return await result

    async def _score_waiting(self) -> None:
        batch = self._waiting
        self._waiting = []
        try:
            scored = await asyncio.to_thread(self._reward.score, [row for row, _ in batch])
        except Exception as error:
            # Every rollout of the batch waits for its result, and without one it would wait for ever.
            for _, result in batch:
                result.set_exception(error)
            return
        for (_, result), parts in zip(batch, scored, strict=True):
            result.set_result(parts)


@cache
def _open_queued_reward(config: str, reward_router_address: str | None) -> QueuedReward:
    document = read_record(Path(config))
    opening = document.get("opening", "")  # a folder that was exported before has none
    section: TarsRewardSettings | RSafeRewardSettings = TypeAdapter(
        TarsRewardSettings | RSafeRewardSettings
    ).validate_python(document["reward"])
    if isinstance(section, RSafeRewardSettings):
        verdicts = VerdictReward(section.accuracy_weight, section.format_weight, document["reasoning"])
        return QueuedReward(verdicts, opening)

    def open_judge(text: str) -> Judge:
        judge = JudgeSpec.parse(text)
        # A reward model that is served elsewhere needs no server of verl's.
        if judge.name != REWARD_MODEL or judge.model is None:
            return judge.open()
        if reward_router_address is None:
            raise InputError(f"judge {text!r}: verl serves no reward model; export the folder again")
        from safereason.judges.reward_model import ServedRewardModel

        assert judge.model is not None
        return ServedRewardModel(judge.model, f"http://{reward_router_address}")

    return QueuedReward(open_reward(section, open_judge), opening)


def reward_model_of(reward: TarsRewardSettings | RSafeRewardSettings, key: str) -> str | None:
    """The folder or hub id of the reward model that verl is to serve; None where the reward has none.

    Args:
        reward: The recipe's.
        key: The section's dotted key, for messages.

    Raises:
        InputError: A judge has another model that would run beside verl, where no GPU is kept for it; or there are two
            reward models.
    """
    if isinstance(reward, RSafeRewardSettings):
        return None
    reward_models: list[str] = []
    for name, text in zip(("safety", "task"), judges_of(reward), strict=True):
        judge = JudgeSpec.parse(text)
        if judge.model is None or judge.model.is_remote:
            continue
        if judge.name != REWARD_MODEL:
            raise InputError(
                f"{key}.reward.{name}: --backend verl keeps no GPU for the model of {text!r}; serve it, and name it as "
                "openai/NAME with OPENAI_BASE_URL"
            )
        reward_models.append(judge.model.location)
    if len(set(reward_models)) > 1:
        raise InputError(
            f"{key}.reward: --backend verl serves one reward model, and here are {' and '.join(reward_models)}"
        )
    return next(iter(reward_models), None)
