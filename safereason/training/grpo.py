"""GRPO through TRL's GRPOTrainer, made equal to what the two papers ran.

TARS: arXiv 2507.00971, §4, stage 3. RSafe: arXiv 2506.07736, §3. Both trained with verl. The loss of one step is

    mean over all tokens of the step of [ -min(ratio · A, clip(ratio, 1 ± 0.2) · A) + kl_coef · k3 ] - entropy_coef · H

with A from `training.advantage`, k3 = exp(q - p) - (q - p) - 1 on log-probabilities p of the policy and q of the
reference, and one update for each batch of rollouts, so that ratio = 1 where it is differentiated.

Deviations:
    1. verl clamps the log-ratio to ±20 and k3 to ±10; TRL does not. Neither bound is near in a run that is not broken.
    2. With gradient accumulation or several processes the entropy bonus is a mean over micro-batches of their token
       means (TRL); the policy and KL terms are token means over the whole step however it is cut.
    3. Unscored rollouts have no advantage (see `training.advantage`).
    4. Every step sees the mix's ratio of kinds or labels (see `training.order`); verl shuffles.
    5. Top-p, top-k and the repetition penalty shape what is drawn and not what is differentiated: as in verl, the
       log-probabilities are those of the model at the sampling temperature, taken anew after the draw, so that the
       ratio starts at 1 whatever the draw was shaped by.
"""

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from safereason import processes
from safereason.data.example import Example
from safereason.engines.transformers import BATCH_TOKENS, end_of_turn_ids
from safereason.recipe.schema import GRPO
from safereason.rewards.base import Reward
from safereason.runs.directory import CHECKPOINTS
from safereason.runs.records import RecordLog
from safereason.training import plain_head, shared_prefix
from safereason.training.advantage import group_advantages, uniform_groups
from safereason.training.arguments import grpo_arguments
from safereason.training.ask import Ask, asked
from safereason.training.callbacks import train_to_end
from safereason.training.model import load_trainable, lora_config, save_trained
from safereason.training.order import epochs
from safereason.training.rollouts import RewardFunction, rollout_function

# TRL prints the whole prompt of an unscored rollout; the share unscored is in the metrics, and the rollout in its file.
logging.getLogger("trl.trainer.grpo_trainer").addFilter(lambda record: "returned None" not in record.getMessage())

# `rollout_func` is announced as experimental at every start; the tests hold its contract.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

SHARE_FROM = 0.25
"""Prompts are shared from this share of the completions' length: below it the long packed rows cost more attention than
the prompts they spare."""


SHOWN = ("reward", "format", "kl", "completions/mean_length")


class Trainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer with the papers' advantage and with the prompt of a group computed once."""

    def __init__(self, section: GRPO, **arguments: Any) -> None:
        super().__init__(**arguments)
        for model in (self.model, self.ref_model):
            if model is not None:
                plain_head.install(model, self.temperature)
        self._section = section
        self._rewards: Tensor | None = None
        self._shares_prefix = (
            section.shared_prefix and self.accelerator.num_processes == 1 and shared_prefix.is_supported(self.model)
        )

    def _calculate_rewards(self, *arguments: Any, **named: Any) -> Tensor:
        """Keeps the gathered rewards [B over all processes, 1] for the advantages."""
        rewards: Tensor = super()._calculate_rewards(*arguments, **named)
        self._rewards = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Replaces TRL's advantages, and takes groups without any spread out of the loss where the recipe says so."""
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        assert self._rewards is not None
        rewards, group = self._rewards[:, 0], self._section.rollouts_per_prompt
        start = self.accelerator.process_index * len(inputs)
        local = slice(start, start + len(inputs))
        output["advantages"] = group_advantages(rewards, group, self._section.advantage_epsilon)[local]
        if self._section.drop_uniform_groups:
            kept = ~uniform_groups(rewards, group)[local]
            output["completion_mask"] = output["completion_mask"] * kept[:, None]
            output["num_items_in_batch"] = self.accelerator.gather(output["completion_mask"].sum()).sum()
        return output

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **named: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's one place for log-probabilities, with shared prompts where that is exact."""
        prompt_width = input_ids.shape[1] - logits_to_keep
        worth_it = prompt_width >= SHARE_FROM * logits_to_keep and bool(attention_mask[:, -logits_to_keep:].any())
        if not (self._shares_prefix and worth_it):
            result: tuple[Tensor, Tensor | None, Tensor | None] = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **named
            )
            return result
        size = batch_size or len(input_ids)
        batches = zip(torch.split(input_ids, size), torch.split(attention_mask, size), strict=True)
        with self.accelerator.autocast():  # accelerate's own is around the forward pass that is not called here
            parts = [
                shared_prefix.completion_logps(model, ids, mask, logits_to_keep, self.temperature)
                for ids, mask in batches
            ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]) if compute_entropy else None, None


def train(
    section: GRPO,
    location: str,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    reward: Reward,
    *,
    seed: int,
    run: Path,
    metrics: RecordLog,
    rollouts: RecordLog,
    resume_from: Path | None,
    steps_done: int,
    ask: Ask = asked,
    callbacks: Sequence[TrainerCallback] = (),
    shown: tuple[str, ...] = SHOWN,
    report_to: str = "none",
    key: str = "rl",
) -> dict[str, Any]:
    """Trains and writes `run/model`.

    Args:
        section: The recipe's figures.
        location: Folder or hub id of the model to start from; also the reference of the KL term.
        tokenizer: Its tokenizer.
        examples: Prompts, all within `section.max_prompt_tokens`.
        reward: What is maximised.
        seed: Seed of the order of prompts and of the rollouts.
        run: Run directory; checkpoints go to `run/checkpoints`.
        metrics: Where a record a step goes.
        rollouts: Where a record a rollout goes.
        resume_from: Checkpoint to go on from.
        steps_done: Its step.
        ask: The conversation an example is put as.
        callbacks: What else looks at the training.
        shown: Metrics that stand beside the progress bar.
        report_to: The tracker that is told.
        key: The section's dotted key, for messages.

    Returns:
        Steps taken.
    """
    cpu = not torch.cuda.is_available()
    arguments = grpo_arguments(
        section,
        prompts=len(examples),
        seed=seed,
        output_dir=str(run / CHECKPOINTS),
        processes=processes.count(),
        cpu=cpu,
        key=key,
    )
    model = load_trainable(location, tokenizer)
    ends = end_of_turn_ids(model, tokenizer)
    own_engine = section.rollouts == "engine"
    if not own_engine:  # vLLM by itself knows the end of a text, and not the chat template's end of a turn
        arguments["generation_kwargs"] = {"stop_token_ids": sorted(ends), **arguments.get("generation_kwargs", {})}
    record = partial(_record, rollouts)
    trainer = Trainer(
        section,
        model=model,
        reward_funcs=[RewardFunction(reward, tokenizer, ends, record)],
        args=GRPOConfig(**arguments),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": ask(e),
                    "user": e.prompt,
                    "response": e.response,
                    "id": e.id,
                    "kind": e.kind,
                    "label": e.label,
                }
                for e in epochs(examples, section.epochs, seed)
            ]
        ),
        processing_class=tokenizer,
        peft_config=lora_config(section.lora),
        rollout_func=rollout_function(section.sampling, seed, BATCH_TOKENS) if own_engine else None,
        callbacks=list(callbacks),
    )
    train_to_end(trainer, resume_from, what=key, log=metrics, shown=shown, steps_done=steps_done, report_to=report_to)
    save_trained(trainer, tokenizer, run / "model", section.precision)
    return {"steps": trainer.state.global_step}


def _record(log: RecordLog, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        log.append(row)
