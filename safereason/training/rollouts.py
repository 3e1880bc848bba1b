"""Rollouts of the model being trained: drawn by our engine or by vLLM, scored by the recipe's reward, and recorded."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from accelerate.utils import gather_object

from safereason.console import say
from safereason.data.example import Example
from safereason.engines import vllm
from safereason.engines.base import Completion, GenerateOptions
from safereason.engines.transformers import BATCH_TOKENS, TransformersEngine
from safereason.errors import InputError, StageFailed
from safereason.recipe.schema import Sampling
from safereason.rewards.base import Reward, RewardParts, RewardRow
from safereason.runs.manifest import going_on
from safereason.runs.records import Record
from safereason.text import chat, reasoning
from safereason.text.chat import Conversation
from safereason.training.sharding import unsharded

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl.generation.vllm_generation import VLLMGeneration


@dataclass(frozen=True)
class Share:
    """The rollouts of a step that one process draws: consecutive ones of all, in the order of their prompts."""

    first: int
    """Number of its first rollout in the step."""
    count: int
    group_size: int
    """Rollouts a prompt."""

    @property
    def local(self) -> slice:
        """Place of its rollouts among those of all processes."""
        return slice(self.first, self.first + self.count)

    @property
    def group(self) -> int:
        """Rollouts that are drawn together, so that their prompt is read once: a group, where it holds whole ones."""
        if self.first % self.group_size == 0 and self.count % self.group_size == 0:
            return self.group_size
        return 1

    @property
    def positions(self) -> list[tuple[int, int]]:
        """The number of each rollout's group in the step, and its own number in the group."""
        return [divmod(number, self.group_size) for number in range(self.first, self.first + self.count)]


class Sampler(Protocol):
    """A generator of rollouts with the current weights of the model being trained."""

    def draw(self, conversations: Sequence[Conversation], share: Share, step: int) -> list[list[int]]:
        """Token ids of one completion for each of the share's conversations, which hold each prompt G times."""
        ...


class EngineSampler:
    """Rollouts by our engine, on the very weights that are trained.

    A step's draw depends on the seed, the step and each rollout's position in it: a resumed run draws the same as an
    uninterrupted one, and several processes, which draw a part each, the same as a single one.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        sampling: Sampling,
        seed: int,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """Takes the model without DDP's wrapper, and the seed of the training."""
        self._model = model
        self._engine = TransformersEngine(model, tokenizer, name="the model being trained", batch_tokens=batch_tokens)
        self._sampling = sampling
        self._seed = seed

    def draw(self, conversations: Sequence[Conversation], share: Share, step: int) -> list[list[int]]:
        """See `Sampler`.

        Raises:
            InputError: A prompt does not fit into the model's context, or a single row into memory.
        """
        n = share.group
        options = GenerateOptions(n=n, seed=_step_seed(self._seed, step, 0))
        with unsharded(self._model):
            groups = self._engine.generate(
                list(conversations[::n]), self._sampling, options, streams=share.positions[::n]
            )
        completions: list[Completion] = []
        for group in groups:
            completions.extend(group)
        for completion in completions:
            # No later draw would go better.
            if completion.finish_reason == "error" and completion.error:
                raise InputError(completion.error)
        return [list(completion.token_ids) for completion in completions]


class VLLMSampler:
    """Rollouts by TRL's vLLM, which is given the weights before each step's draw.

    Where it sleeps, TRL wakes it for the weights, then for its cache, and puts it to sleep again once it has drawn.
    """

    def __init__(self, generation: "VLLMGeneration", tokenizer: "PreTrainedTokenizerBase") -> None:
        """Takes TRL's connection of the model being trained to vLLM."""
        self._generation = generation
        self._tokenizer = tokenizer

    def draw(self, conversations: Sequence[Conversation], share: Share, step: int) -> list[list[int]]:
        """See `Sampler`."""
        prompts = [chat.prompt_ids(self._tokenizer, conversation) for conversation in conversations]
        self._generation.sync_weights()
        # The weights came one by one, gathered; vLLM's cache is taken from what they leave.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _, completion_ids, _, _ = self._generation.generate(prompts, images=None, num_generations=share.group_size)
        return [list(ids) for ids in completion_ids]


def _step_seed(*parts: int) -> int:
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


@dataclass(frozen=True)
class Scored:
    """The rewards of one process's rollouts, and a summary of all processes'."""

    rewards: list[float | None]
    """Total of each local rollout, [B]; None where it is unscored."""
    metrics: dict[str, float]
    """Means of the reward's parts over the rollouts that have them, and shares of rollouts with something amiss."""


class Scorer:
    """The recipe's reward, put to a step's rollouts; it records each of them, over all processes."""

    def __init__(
        self,
        reward: Reward,
        tokenizer: "PreTrainedTokenizerBase",
        end_ids: set[int],
        record: Callable[[Record], None],
    ) -> None:
        """Takes the reward, the tokenizer, the ids that end a completion, and the function that stores a record."""
        self._reward = reward
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._record = record

    def score(
        self,
        examples: Sequence[Example],
        conversations: Sequence[Conversation],
        completion_ids: Sequence[Sequence[int]],
        step: int,
    ) -> Scored:
        """The rewards of one process's rollouts; every process calls it.

        Args:
            examples: The example of each rollout, [B].
            conversations: The conversation that it answers, [B].
            completion_ids: Its completion, [B].
            step: Number of the step, from 1.

        Raises:
            StageFailed: Every verdict that this step needed has failed, in all processes.
        """
        rows: list[RewardRow] = []
        for example, conversation, ids in zip(examples, conversations, completion_ids, strict=True):
            # The reasoning that the chat template opens belongs to the prompt's ids, and the reward has to see it.
            text = chat.render(self._tokenizer, conversation).opening + chat.decoded(self._tokenizer, list(ids))
            rows.append(RewardRow(example.prompt, example.kind, text, example.label, example.response))
        scored = self._reward.score(rows)
        own_records: list[Record] = []
        for example, row, parts, ids in zip(examples, rows, scored, completion_ids, strict=True):
            own_records.append(self._record_of(step, example.id, row, parts, ids))
        records: list[Record] = gather_object(own_records)
        for record in records:
            self._record(record)
        reasons = [str(record["reason"]) for record in records if record["failed"]]
        # Every process has the records of all, so that all of them end here or none does.
        if reasons and not any(gather_object([parts.judged for parts in scored])):
            commonest = Counter(reasons).most_common(1)[0][0]
            raise StageFailed(
                f"step {step}: all {len(reasons)} verdicts failed ({commonest}), so that there is nothing "
                f"to learn; {going_on()}"
            )
        return Scored([parts.total for parts in scored], _means(records))

    def _record_of(self, step: int, example_id: str, row: RewardRow, parts: RewardParts, ids: Sequence[int]) -> Record:
        """The record of one rollout; label and response belong to guards alone."""
        record: Record = {"step": step, "id": example_id, "prompt": row.prompt, "kind": row.kind}
        if row.label:
            record["label"] = row.label
        if row.response:
            record["response"] = row.response
        record["text"] = row.text
        record["total"] = parts.total
        record["parts"] = parts.parts
        record["reason"] = parts.reason
        record["failed"] = parts.failed
        record["tokens"] = len(ids)
        record["finish_reason"] = "stop" if ids[-1] in self._end_ids else "length"
        return record


def _means(records: Sequence[Record]) -> dict[str, float]:
    values_by_part: dict[str, list[float]] = {}
    for record in records:
        for name, value in record["parts"].items():
            if value is not None:
                values_by_part.setdefault(name, []).append(value)
    count = len(records)
    means = {name: sum(values) / len(values) for name, values in sorted(values_by_part.items())}
    means["closed"] = sum(reasoning.split(record["text"]).closed for record in records) / count
    means["unscored"] = sum(record["total"] is None for record in records) / count
    means["judge_failed"] = sum(record["failed"] for record in records) / count
    return means


def open_vllm(
    arguments: dict[str, object],
    model: "PreTrainedModel",
    accelerator: "Accelerator",
    tokenizer: "PreTrainedTokenizerBase",
) -> VLLMSampler:
    """A sampler on vLLM, beside the training or as a server, by TRL's keyword arguments (`training.arguments`)."""
    from trl.generation.vllm_generation import VLLMGeneration

    if arguments.get("enable_sleep_mode") and not vllm.can_sleep():
        say("rollouts: vLLM cannot sleep on this platform, so that it keeps its memory while the loss is computed")
        arguments = {**arguments, "enable_sleep_mode": False}
    return VLLMSampler(VLLMGeneration(model, accelerator, tokenizer, **arguments), tokenizer)
