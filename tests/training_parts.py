"""A training as a stage describes it to `sft.train`, `dpo.train` and `grpo.train`."""

from pathlib import Path

from torch import Tensor
from transformers import TrainerCallback

from safereason.engines.open import load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.recipe.schema import DPO, GRPO, SFT
from safereason.runs.records import RecordLog
from safereason.training.training_run import TrainingRun


def training_run(
    section: SFT | GRPO | DPO, model: Path, folder: Path, metrics: RecordLog, key: str = "rl", **changes
) -> TrainingRun:
    """From the start of a model, with seed 0."""
    values = {
        "section": section,
        "location": str(model),
        "tokenizer": load_tokenizer(ModelSpec.parse(str(model))),
        "seed": 0,
        "folder": folder,
        "metrics": metrics,
        "key": key,
    }
    return TrainingRun(**{**values, **changes})


class _Gradients(TrainerCallback):
    """Keeps the gradients that the first optimizer step is given."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **others):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_step(trainer) -> tuple[float, dict[str, Tensor]]:
    """Trains a trainer of TRL's one step; the loss it logged and the gradients it used."""
    kept = _Gradients()
    trainer.add_callback(kept)
    trainer.train()
    (loss,) = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return loss, kept.gradients
