"""GRPO through TRL's GRPOTrainer, made equal to the two papers' own training.

TARS: arXiv 2507.00971, §4, stage 3. RSafe: arXiv 2506.07736, §3. Both trained with verl. The loss of one step is

    mean over all tokens of the step of [ -min(ratio · A, clip(ratio, 1 ± 0.2) · A) + kl_coef · k3 ] - entropy_coef · H

with A from `training.advantage`, k3 = exp(q - p) - (q - p) - 1 on log-probabilities p of the model being trained
and q of the reference model, and one update for each batch of rollouts, so that ratio = 1 where it is differentiated.

Deviations:
    1. verl clamps the log-ratio to ±20 and k3 to ±10; TRL does not. Neither bound is near in a run that is not broken.
    2. With gradient accumulation or several processes the entropy bonus is a mean over micro-batches of their token
       means (TRL); the other two terms are token means over the whole step however it is cut.
    3. Unscored rollouts have no advantage (see `training.advantage`).
    4. Every step sees the mix's ratio of kinds or labels (see `training.order`); verl shuffles.
    5. Top-p, top-k and the repetition penalty change the draw and not the loss. As in verl, the log-probabilities are
       those of the model at the sampling temperature, taken anew after the draw, so that the ratio starts at 1.
"""

import logging
import os
from collections.abc import Sequence

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from safereason import processes
from safereason.data.example import Example
from safereason.data.prompt_builder import PromptBuilder, user_turn
from safereason.engines.transformers import BATCH_TOKENS, end_of_turn_ids
from safereason.recipe.schema import GRPO
from safereason.rewards.base import Reward
from safereason.runs.records import Record, RecordLog
from safereason.training import plain_head, shared_prefix
from safereason.training.advantage import group_advantages, uniform_groups
from safereason.training.arguments import Arguments, grpo_arguments
from safereason.training.callbacks import train_to_end
from safereason.training.model import load_trainable, lora_config, save_trained
from safereason.training.order import epochs
from safereason.training.rollouts import RewardFunction, rollout_function, trained_example
from safereason.training.training_run import TrainingRun

# TRL prints the whole prompt of an unscored rollout; the share unscored is in the metrics, and the rollout in its file.
logging.getLogger("trl.trainer.grpo_trainer").addFilter(lambda record: "returned None" not in record.getMessage())

# `rollout_func` is announced as experimental at every start; the tests hold its contract.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

SHARE_FROM = 0.25
"""Least length of prompts, as a share of the completions' length, at which prompts are shared.

Below it the attention of the long packed rows costs more than the prompts that they spare.
"""

SHOWN = ("reward", "format", "kl", "completions/mean_length")
"""Metrics beside the progress bar."""


class GroupTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer with the papers' advantage and with the prompt of a group computed once."""

    def __init__(self, section: GRPO, **arguments: object) -> None:
        super().__init__(**arguments)
        for model in (self.model, self.ref_model):
            if model is not None:
                plain_head.install(model, self.temperature)
        self._section = section
        # TRL passes the rewards on as advantages, without the rewards themselves.
        self._rewards: Tensor | None = None
        # DDP and FSDP act in the forward pass of the whole model, which packing does not call.
        self._shares_prefix = (
            section.shared_prefix and self.accelerator.num_processes == 1 and shared_prefix.is_supported(self.model)
        )

    def _calculate_rewards(self, *arguments: object, **named: object) -> Tensor:
        """Keeps the gathered rewards [B over all processes, 1] for the advantages."""
        rewards: Tensor = super()._calculate_rewards(*arguments, **named)
        self._rewards = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: Sequence[object]) -> dict[str, Tensor]:
        """Replaces TRL's advantages, and takes groups without any spread out of the loss where the recipe says so."""
        output: dict[str, Tensor] = super()._generate_and_score_completions(inputs)
        assert self._rewards is not None
        rewards = self._rewards[:, 0]
        group = self._section.rollouts_per_prompt
        # A group may be spread over several processes: each computes all advantages, and keeps those of its own rows.
        start = self.accelerator.process_index * len(inputs)
        local = slice(start, start + len(inputs))
        output["advantages"] = group_advantages(rewards, group, self._section.advantage_epsilon)[local]
        if self._section.drop_uniform_groups:
            kept = ~uniform_groups(rewards, group)[local]
            output["completion_mask"] = output["completion_mask"] * kept[:, None]
            # The loss is divided by the tokens that are left in it, and not by those that TRL counted.
            output["num_items_in_batch"] = self.accelerator.gather(output["completion_mask"].sum()).sum()
        return output

    def _get_per_token_logps_and_entropies(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **named: object,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities and entropies, with shared prompts where that is exact; TRL takes all of them from here."""
        prompt_width = input_ids.shape[1] - logits_to_keep
        worth_it = prompt_width >= SHARE_FROM * logits_to_keep and bool(attention_mask[:, -logits_to_keep:].any())
        if not (self._shares_prefix and worth_it):
            result: tuple[Tensor, Tensor | None, Tensor | None] = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **named
            )
            return result
        size = batch_size or len(input_ids)
        logps = []
        entropies = []
        # accelerate wraps autocast around the model's forward method, which is not called here.
        with self.accelerator.autocast():
            for ids, mask in zip(torch.split(input_ids, size), torch.split(attention_mask, size), strict=True):
                logp, entropy = shared_prefix.completion_logps(model, ids, mask, logits_to_keep, self.temperature)
                logps.append(logp)
                entropies.append(entropy)
        if not compute_entropy:
            return torch.cat(logps), None, None
        return torch.cat(logps), torch.cat(entropies), None


def train(
    run: TrainingRun[GRPO],
    examples: Sequence[Example],
    reward: Reward,
    rollouts: RecordLog,
    *,
    prompt_builder: PromptBuilder = user_turn,
    callbacks: Sequence[TrainerCallback] = (),
    shown: tuple[str, ...] = SHOWN,
) -> dict[str, int]:
    """Trains on prompts and writes the model.

    Args:
        run: Settings of the training.
        examples: Prompts, all within `section.max_prompt_tokens`.
        reward: The reward to maximise.
        rollouts: Log with one record per rollout.
        prompt_builder: Builds the conversation of an example.
        callbacks: Further callbacks of the trainer.
        shown: Metrics beside the progress bar.

    Returns:
        Steps taken.
    """
    section = run.section
    arguments = grpo_arguments(
        section,
        prompts=len(examples),
        seed=run.seed,
        output_dir=str(run.checkpoints),
        processes=processes.count(),
        cpu=not torch.cuda.is_available(),
        key=run.key,
    )
    model = load_trainable(run.location, run.tokenizer)
    end_ids = end_of_turn_ids(model, run.tokenizer)
    draw = None
    if section.rollouts == "engine":
        draw = rollout_function(section.sampling, run.seed, BATCH_TOKENS)
    else:
        _set_stop_tokens(arguments, end_ids)

    def record(rows: list[Record]) -> None:
        for row in rows:
            rollouts.append(row)

    trainer = GroupTrainer(
        section,
        model=model,
        reward_funcs=[RewardFunction(reward, run.tokenizer, end_ids, record)],
        args=GRPOConfig(**arguments),
        train_dataset=_dataset(epochs(examples, section.epochs, run.seed), prompt_builder),
        processing_class=run.tokenizer,
        peft_config=lora_config(section.lora),
        rollout_func=draw,
        callbacks=list(callbacks),
    )
    train_to_end(trainer, run, title=run.key, shown=shown)
    save_trained(trainer, run.tokenizer, run.model_folder, section.precision)
    return {"steps": trainer.state.global_step}


def _set_stop_tokens(arguments: Arguments, end_ids: set[int]) -> None:
    """Has vLLM stop at the end of a turn too: by itself it knows the end of a text alone."""
    extra = arguments.get("generation_kwargs", {})
    arguments["generation_kwargs"] = {"stop_token_ids": sorted(end_ids), **extra}


def _dataset(examples: Sequence[Example], prompt_builder: PromptBuilder) -> Dataset:
    """The rows in the order they are trained on; TRL reads the conversation, and the reward reads the example."""
    rows = []
    for example in examples:
        rows.append({"prompt": prompt_builder(example), "example": trained_example(example)})
    return Dataset.from_list(rows)
