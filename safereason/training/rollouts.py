"""Rollouts of the model being trained, drawn by our engine and scored by the recipe's reward."""

import hashlib
from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any

from safereason.engines.base import Completion
from safereason.engines.transformers import TransformersEngine
from safereason.errors import InputError
from safereason.recipe.schema import Sampling
from safereason.rewards.base import Reward, RewardRow
from safereason.runs.records import Record
from safereason.text import chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rollouts = dict[str, Any]


def rollout_function(sampling: Sampling, seed: int, batch_tokens: int) -> Callable[[list[Any], Any], Rollouts]:
    """TRL's `rollout_func`: draws one completion for each of the (repeated) prompts with the current weights.

    A step's draw depends on the seed, the step and the process, so a resumed run draws what the first would have.
    """

    def rollout(prompts: list[Any], trainer: Any) -> Rollouts:
        from trl.models import unwrap_model_for_generation

        groups = [list(group) for _, group in groupby(prompts)]
        sizes = {len(group) for group in groups}
        n = sizes.pop() if len(sizes) == 1 else 1
        conversations = [group[0] for group in groups] if n > 1 else prompts
        step_seed = _seed(seed, trainer.state.global_step, trainer.accelerator.process_index)
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
            engine = TransformersEngine(model, trainer.processing_class, name="policy", batch_tokens=batch_tokens)
            drawn = engine.generate(conversations, sampling, n=n, seed=step_seed)
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
    """One reward for TRL, with the parts logged and every rollout recorded.

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

    def __call__(self, *, prompts: list[Any], completion_ids: list[list[int]], trainer_state: Any,
                 log_metric: Callable[[str, float], None], **columns: Any) -> list[float | None]:  # fmt: skip
        """Totals, None where a rollout is unscored."""
        texts = [str(self._tokenizer.decode(ids, skip_special_tokens=True)) for ids in completion_ids]
        asked = (columns[name] for name in ("user", "kind"))
        rows = [RewardRow(*row) for row in zip(*asked, texts, columns["label"], columns["response"], strict=True)]
        scored = self._reward.score(rows)
        for name in sorted({name for parts in scored for name in parts.parts}):
            values = [v for parts in scored if (v := parts.parts.get(name)) is not None]
            if values:
                log_metric(name, sum(values) / len(values))
        log_metric("unscored", sum(parts.total is None for parts in scored) / len(scored))
        self._record([
            {"step": trainer_state.global_step + 1, "id": example, "prompt": row.prompt, "kind": row.kind,
             **({"label": row.label} if row.label else {}), **({"response": row.response} if row.response else {}),
             "text": row.text, "total": parts.total, "parts": parts.parts, "reason": parts.reason,
             "finish_reason": "stop" if ids[-1] in self._end_ids else "length", "tokens": len(ids)}
            for example, row, parts, ids in zip(columns["id"], rows, scored, completion_ids, strict=True)
        ])  # fmt: skip
        return [parts.total for parts in scored]
