"""Preference optimisation through TRL's DPOTrainer: the DPO baseline of TARS (arXiv 2507.00971).

The loss of a batch of pairs, with p the model being trained, q the reference model (the start), w the chosen and l
the rejected completion:

    mean over pairs of -log sigmoid(beta · [log p(w)/q(w) - log p(l)/q(l)]) + rpo_alpha · L

DPO is arXiv 2305.18290, eq. 7; L, the negative log-likelihood of the chosen completion a token, is RPO's term
(arXiv 2404.19733, eq. 1). Completions are trained on as they were drawn, token by token: no text is tokenized again.

Deviations:
    1. L is the mean over all chosen tokens of a forward pass (TRL), where RPO averages each completion over its own
       tokens: long completions weigh more. With gradient accumulation it is the mean of these means.
    2. A completion that ended at the token limit is trained on as it is, without an end of turn.
"""

from collections.abc import Sequence

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from safereason import processes
from safereason.recipe.schema import DPO
from safereason.training import plain_head
from safereason.training.arguments import dpo_arguments
from safereason.training.callbacks import restore_token_count, train_to_end
from safereason.training.model import load_trainable, lora_config, save_trainer
from safereason.training.training_run import TrainingRun

SHOWN = ("loss", "rewards/accuracies", "rewards/margins")
"""Metrics beside the progress bar."""


class PairsTrainer(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer, for pairs that are already token ids."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)
        # TRL gives its head to the reference model too.
        for model in (self.model, self.ref_model):
            if model is not None:
                plain_head.install(model)

    def _prepare_dataset(self, dataset: Dataset, *arguments: object, **named: object) -> Dataset:
        """The pairs as they are: TRL would tokenize texts."""
        return dataset


def train(run: TrainingRun[DPO], pairs: Sequence[dict[str, list[int]]]) -> dict[str, int]:
    """Trains on pairs and writes the model.

    Args:
        run: Settings of the training.
        pairs: Token ids, as `prompt_ids`, `chosen_ids` and `rejected_ids`.

    Returns:
        Steps taken.
    """
    trainer = make_trainer(run, pairs)
    if run.resume_from is not None:
        restore_token_count(trainer, run.resume_from)
    train_to_end(trainer, run, title=run.key, shown=SHOWN)
    save_trainer(trainer, run.tokenizer, run.model_folder, run.section.precision)
    return {"steps": trainer.state.global_step}


def make_trainer(run: TrainingRun[DPO], pairs: Sequence[dict[str, list[int]]]) -> PairsTrainer:
    """A trainer that is ready to train; arguments as of `train`."""
    section = run.section
    arguments = dpo_arguments(
        section,
        pairs=len(pairs),
        seed=run.seed,
        output_dir=str(run.checkpoints),
        processes=processes.count(),
        cpu=not torch.cuda.is_available(),
        key=run.key,
    )
    # Without adapters TRL needs a frozen copy as the reference; with them it turns the adapters off instead.
    reference = None
    if section.lora is None:
        reference = load_trainable(run.location, run.tokenizer)
    return PairsTrainer(
        model=load_trainable(run.location, run.tokenizer),
        ref_model=reference,
        args=DPOConfig(**arguments),
        train_dataset=Dataset.from_list(list(pairs)),
        processing_class=run.tokenizer,
        peft_config=lora_config(section.lora),
    )
