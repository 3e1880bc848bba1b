"""Rollouts of the model being trained, drawn by our engine and scored by the recipe's reward."""

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object

from safereason.engines.base import Completion
from safereason.engines.transformers import TransformersEngine
from safereason.errors import InputError, StageFailed
from safereason.recipe.schema import Sampling
from safereason.rewards.base import Reward, RewardRow
from safereason.runs.manifest import going_on
from safereason.runs.records import Record
from safereason.text import chat, reasoning
from safereason.training.model import unsharded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rollouts = dict[str, Any]


def rollout_function(sampling: Sampling, seed: int, batch_tokens: int) -> Callable[[list[Any], Any], Rollouts]:
    """TRL's `rollout_func`: draws one completion for each of the (repeated) prompts with the current weights.

    A step's draw depends on the seed, the step and each rollout's place in it: a resumed run draws what the first would
    have, and several processes, of which each draws its own part, what one would have.
    """

    def rollout(prompts: list[Any], trainer: Any) -> Rollouts:
        from trl.models import unwrap_model_for_generation

        group, first = trainer.num_generations, trainer.accelerator.process_index * len(prompts)
        places = [divmod(first + i, group) for i in range(len(prompts))]
        n = group if first % group == 0 and len(prompts) % group == 0 else 1  # else a group is shared by processes
        conversations = prompts[::n]
        step_seed = _seed(seed, trainer.state.global_step, 0)
        unwrapped = unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator)
        with unwrapped as model, unsharded(model):
            engine = TransformersEngine(model, trainer.processing_class, name="policy", batch_tokens=batch_tokens)
            drawn = engine.generate(conversations, sampling, n=n, seed=step_seed, places=places[::n])
        completions: list[Completion] = [c for group in drawn for c in group]
        if failed := next((c.error for c in completions if c.finish_reason == "error"), None):
            raise InputError(failed)
        return {
            "prompt_ids": [ids for prompt in conversations for ids in [_ids(trainer, prompt)] * n],
            "completion_ids": [list(c.token_ids) for c in completions],
            "logprobs": None,
        }

    return rollout


def _ids(trainer: Any, prompt: Any) -> list[int]:
    return chat.prompt_ids(trainer.processing_class, prompt)


def _seed(*parts: int) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:6], "big")


class RewardFunction:
    """One reward for TRL, with the parts logged and every rollout recorded, over all processes.

    TRL scores a row on whatever functions gave a number; a single combined one leaves a row with an undecided part
    out of its group instead.
    """

    __name__ = "reward"

    def __init__(
        self,
        reward: Reward,
        tokenizer: "PreTrainedTokenizerBase",
        end_ids: set[int],
        record: Callable[[list[Record]], None],
    ) -> None:
        self._reward = reward
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._record = record

    def __call__(
        self,
        *,
        prompts: list[Any],
        completion_ids: list[list[int]],
        trainer_state: Any,
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float | None]:
        """Totals, None where a rollout is unscored.

        Raises:
            StageFailed: Of all that the judges were asked in this step, no verdict could be had.
        """
        texts = [
            chat.render(self._tokenizer, prompt).opening + chat.decoded(self._tokenizer, ids)
            for prompt, ids in zip(prompts, completion_ids, strict=True)
        ]
        asked = (columns[name] for name in ("user", "kind"))
        rows = [RewardRow(*row) for row in zip(*asked, texts, columns["label"], columns["response"], strict=True)]
        scored = self._reward.score(rows)
        recorded: list[Record] = gather_object(
            [
                {
                    "step": trainer_state.global_step + 1,
                    "id": example,
                    "prompt": row.prompt,
                    "kind": row.kind,
                    **({"label": row.label} if row.label else {}),
                    **({"response": row.response} if row.response else {}),
                    "text": row.text,
                    "total": parts.total,
                    "parts": parts.parts,
                    "reason": parts.reason,
                    "failed": parts.failed,
                    "tokens": len(ids),
                    "finish_reason": "stop" if ids[-1] in self._end_ids else "length",
                }
                for example, row, parts, ids in zip(columns["id"], rows, scored, completion_ids, strict=True)
            ]
        )
        for name in sorted({name for record in recorded for name in record["parts"]}):
            values = [v for record in recorded if (v := record["parts"].get(name)) is not None]
            if values:
                log_metric(name, sum(values) / len(values))
        log_metric("closed", sum(reasoning.split(record["text"]).closed for record in recorded) / len(recorded))
        log_metric("unscored", sum(record["total"] is None for record in recorded) / len(recorded))
        log_metric("judge_failed", sum(record["failed"] for record in recorded) / len(recorded))
        self._record(recorded)
        reasons = [str(record["reason"]) for record in recorded if record["failed"]]
        # Every process has the records of all, so that all of them end here or none does.
        if reasons and not any(gather_object([parts.judged for parts in scored])):
            reason, step = Counter(reasons).most_common(1)[0][0], trainer_state.global_step + 1
            raise StageFailed(
                f"step {step}: all {len(reasons)} verdicts failed ({reason}), so that there is nothing "
                f"to learn; {going_on()}"
            )
        return [parts.total for parts in scored]
