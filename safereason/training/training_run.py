"""The settings that every training has in common, with any algorithm."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from safereason.recipe.schema import DPO, GRPO, SFT
from safereason.runs.directory import CHECKPOINTS
from safereason.runs.records import RecordLog

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Section = TypeVar("Section", SFT, GRPO, DPO)


@dataclass(frozen=True)
class TrainingRun(Generic[Section]):
    """One training: the model it starts from, its settings, the folder it writes, and the checkpoint to resume from."""

    section: Section
    """Section of the recipe that says how to train."""
    location: str
    """Folder or hub id of the model to start from; also the reference model, where the algorithm has one."""
    tokenizer: "PreTrainedTokenizerBase"
    """The tokenizer of that model."""
    seed: int
    """Seed of the order of rows, and of the rollouts."""
    folder: Path
    """The run directory."""
    metrics: RecordLog
    """Log with one record per optimizer step."""
    key: str
    """Dotted key of the section, for error messages: `sft`, `rl`, `guard.sft` or `guard.train`."""
    resume_from: Path | None = None
    """Checkpoint to resume from."""
    steps_done: int = 0
    """Optimizer steps of that checkpoint."""
    report_to: str = "none"
    """Experiment tracker that receives the metrics too."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / CHECKPOINTS

    @property
    def model_folder(self) -> Path:
        """Folder of the trained model."""
        return self.folder / "model"
