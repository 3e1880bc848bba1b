"""Preference optimisation through TRL's DPOTrainer: the DPO baseline of TARS (arXiv 2507.00971).

The loss of a batch of pairs, with p the policy, q the reference (the start), w the chosen and l the rejected response:

    mean over pairs of -log sigmoid(beta · [log p(w)/q(w) - log p(l)/q(l)]) + rpo_alpha · L

DPO is arXiv 2305.18290, eq. 7; L, the negative log-likelihood of the chosen response a token, is RPO's term
(arXiv 2404.19733, eq. 1). Responses are trained on as they were drawn, token by token: no text is tokenized again.

Deviations:
    1. L is the mean over all chosen tokens of a forward pass (TRL), where RPO averages each response over its own
       tokens: long responses weigh more. With gradient accumulation it is the mean of these means.
    2. A response that ended at the token limit is trained on as it is, without an end of turn.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from safereason import processes
from safereason.recipe.schema import DPO
from safereason.runs.directory import CHECKPOINTS
from safereason.runs.records import RecordLog, read_json
from safereason.training import plain_head
from safereason.training.arguments import dpo_arguments
from safereason.training.callbacks import train_to_end
from safereason.training.model import load_trainable, lora_config, save_trained

TOKENS = "num_tokens"
"""A counter of TRL's that is no part of its checkpoints."""


class Trainer(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer on pairs that are token ids already."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        for model in (self.model, self.ref_model):
            if model is not None:
                plain_head.install(model)

    def _prepare_dataset(self, dataset: Dataset, *arguments: Any, **named: Any) -> Dataset:
        """Leaves the pairs as they are."""
        return dataset


def train(
    section: DPO,
    location: str,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[dict[str, list[int]]],
    *,
    seed: int,
    run: Path,
    log: RecordLog,
    resume_from: Path | None,
    steps_done: int,
    report_to: str = "none",
    key: str = "rl",
) -> dict[str, Any]:
    """Trains and writes `run/model`.

    Args:
        section: The recipe's figures.
        location: Folder or hub id of the model to start from; also the reference.
        tokenizer: Its tokenizer.
        pairs: Token ids, as `prompt_ids`, `chosen_ids` and `rejected_ids`.
        seed: Seed of the order of pairs.
        run: Run directory; checkpoints go to `run/checkpoints`.
        log: Where a record a step goes.
        resume_from: Checkpoint to go on from.
        steps_done: Its step.
        report_to: The tracker that is told.
        key: The section's dotted key, for messages.

    Returns:
        Steps taken.
    """
    trainer = make_trainer(section, location, tokenizer, pairs, seed, run / CHECKPOINTS, key)
    if resume_from:
        trainer._total_train_tokens = int(read_json(resume_from / "trainer_state.json")["log_history"][-1][TOKENS])
    train_to_end(
        trainer,
        resume_from,
        what=key,
        log=log,
        shown=("loss", "rewards/accuracies", "rewards/margins"),
        steps_done=steps_done,
        report_to=report_to,
    )
    save_trained(trainer, tokenizer, run / "model", section.precision)
    return {"steps": trainer.state.global_step}


def make_trainer(
    section: DPO,
    location: str,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[dict[str, list[int]]],
    seed: int,
    checkpoints: Path,
    key: str,
) -> Trainer:
    """The trainer, ready to train; with adapters the reference is the model without them, else a frozen copy."""
    cpu = not torch.cuda.is_available()
    arguments = dpo_arguments(
        section, pairs=len(pairs), seed=seed, output_dir=str(checkpoints), processes=processes.count(), cpu=cpu, key=key
    )
    return Trainer(
        model=load_trainable(location, tokenizer),
        ref_model=None if section.lora else load_trainable(location, tokenizer),
        args=DPOConfig(**arguments),
        train_dataset=Dataset.from_list(list(pairs)),
        processing_class=tokenizer,
        peft_config=lora_config(section.lora),
    )
