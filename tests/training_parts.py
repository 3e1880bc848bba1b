"""A training as a stage describes it to `sft.train`, `dpo.train` and `grpo.train`."""

from pathlib import Path

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
