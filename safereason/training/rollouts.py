"""Rollouts of the model being trained, drawn by our engine and scored by the recipe's reward."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict

from accelerate.utils import gather_object

from safereason.data.example import Example, PromptKind
from safereason.engines.base import Completion, GenerateOptions
from safereason.engines.transformers import TransformersEngine
from safereason.errors import InputError, StageFailed
from safereason.recipe.schema import Sampling
from safereason.rewards.base import Reward, RewardParts, RewardRow
from safereason.runs.manifest import going_on
from safereason.runs.records import Record
from safereason.text import chat, reasoning
from safereason.text.chat import Conversation
from safereason.text.verdict import Label
from safereason.training.model import unsharded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerState
    from trl import GRPOTrainer


class RolloutOutput(TypedDict):
    """The result of TRL's `rollout_func`, one entry per rollout."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    logprobs: None
    """Left out: TRL takes them anew from the model, at the sampling temperature."""


class TrainedExample(TypedDict):
    """The columns of an example that the reward and the records of rollouts need."""

    id: str
    prompt: str
    kind: PromptKind
    label: Label | None
    response: str | None


def trained_example(example: Example) -> TrainedExample:
    """The columns of one example; see `TrainedExample`."""
    return {
        "id": example.id,
        "prompt": example.prompt,
        "kind": example.kind,
        "label": example.label,
        "response": example.response,
    }


def rollout_function(
    sampling: Sampling, seed: int, batch_tokens: int
) -> "Callable[[list[Conversation], GRPOTrainer], RolloutOutput]":
    """TRL's `rollout_func`: draws one completion for each of the (repeated) prompts with the current weights.

    A step's draw depends on the seed, the step and each rollout's position in it: a resumed run draws the same as an
    uninterrupted one, and several processes, which draw a part each, the same as a single one.
    """

    def rollout(prompts: list[Conversation], trainer: "GRPOTrainer") -> RolloutOutput:
        from trl.models import unwrap_model_for_generation

        group_size = trainer.num_generations
        first = trainer.accelerator.process_index * len(prompts)
        # Of each rollout: the number of its group in the step, and its number in the group.
        positions = [divmod(first + i, group_size) for i in range(len(prompts))]
        n = 1
        if first % group_size == 0 and len(prompts) % group_size == 0:
            n = group_size  # whole groups, so that each prompt is read once for all of its rollouts
        conversations = prompts[::n]
        step_seed = _step_seed(seed, trainer.state.global_step, 0)
        unwrapped = unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator)
        with unwrapped as model, unsharded(model):
            engine = TransformersEngine(
                model, trainer.processing_class, name="the model being trained", batch_tokens=batch_tokens
            )
            groups = engine.generate(
                conversations, sampling, GenerateOptions(n=n, seed=step_seed), streams=positions[::n]
            )
        completions: list[Completion] = []
        for group in groups:
            completions.extend(group)
        # A prompt beyond the model's context, or no memory for a single row: no later draw would go better.
        for completion in completions:
            if completion.finish_reason == "error" and completion.error:
                raise InputError(completion.error)
        prompt_ids: list[list[int]] = []
        for conversation in conversations:
            prompt_ids.extend([chat.prompt_ids(trainer.processing_class, conversation)] * n)
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": [list(completion.token_ids) for completion in completions],
            "logprobs": None,
        }

    return rollout


def _step_seed(*parts: int) -> int:
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


class RewardFunction:
    """The recipe's reward for TRL; it logs the parts and records every rollout, over all processes.

    There is a single function for all parts of a reward. TRL scores a row by the functions that returned a number, so
    that with a function for each part a row with an unscored part would be compared with whole ones. The single
    function leaves such a row out of its group instead.
    """

    __name__ = "reward"

    def __init__(
        self,
        reward: Reward,
        tokenizer: "PreTrainedTokenizerBase",
        end_ids: set[int],
        record: Callable[[list[Record]], None],
    ) -> None:
        """Takes the reward, the tokenizer, the ids that end a completion, and the function that stores records."""
        self._reward = reward
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._record = record

    def __call__(
        self,
        *,
        prompts: list[Conversation],
        completion_ids: list[list[int]],
        example: list[TrainedExample],
        trainer_state: "TrainerState",
        log_metric: Callable[[str, float], None],
        **others: object,
    ) -> list[float | None]:
        """Totals, None where a rollout is unscored.

        Args:
            prompts: The conversation of each rollout.
            completion_ids: Its completion.
            example: Its example; TRL passes every column of the data under the column's name.
            trainer_state: The state of the trainer.
            log_metric: Logs a figure of the step.
            others: Further arguments of TRL's.

        Raises:
            StageFailed: Every verdict that this step needed has failed.
        """
        rows: list[RewardRow] = []
        for conversation, ids, columns in zip(prompts, completion_ids, example, strict=True):
            # The reasoning that the chat template opens belongs to the prompt's ids, and the reward has to see it.
            text = chat.render(self._tokenizer, conversation).opening + chat.decoded(self._tokenizer, ids)
            rows.append(RewardRow(columns["prompt"], columns["kind"], text, columns["label"], columns["response"]))
        scored = self._reward.score(rows)
        step = trainer_state.global_step + 1
        own_records: list[Record] = []
        for columns, row, parts, ids in zip(example, rows, scored, completion_ids, strict=True):
            own_records.append(self._rollout_record(step, columns["id"], row, parts, ids))
        records: list[Record] = gather_object(own_records)
        _log_means(records, log_metric)
        self._record(records)
        reasons = [str(record["reason"]) for record in records if record["failed"]]
        # Every process has the records of all, so that all of them end here or none does.
        if reasons and not any(gather_object([parts.judged for parts in scored])):
            commonest = Counter(reasons).most_common(1)[0][0]
            raise StageFailed(
                f"step {step}: all {len(reasons)} verdicts failed ({commonest}), so that there is nothing "
                f"to learn; {going_on()}"
            )
        return [parts.total for parts in scored]

    def _rollout_record(self, step: int, example_id: str, row: RewardRow, parts: RewardParts, ids: list[int]) -> Record:
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


def _log_means(records: Sequence[Record], log_metric: Callable[[str, float], None]) -> None:
    """Logs the mean of each part over the rollouts that have it, and the shares of rollouts with something amiss."""
    values_by_part: dict[str, list[float]] = {}
    for record in records:
        for name, value in record["parts"].items():
            if value is not None:
                values_by_part.setdefault(name, []).append(value)
    for name, values in sorted(values_by_part.items()):
        log_metric(name, sum(values) / len(values))
    count = len(records)
    log_metric("closed", sum(reasoning.split(record["text"]).closed for record in records) / count)
    log_metric("unscored", sum(record["total"] is None for record in records) / count)
    log_metric("judge_failed", sum(record["failed"] for record in records) / count)
