"""The settings that every training has in common, with any algorithm."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from safereason.engines.spec import ModelSpec
from safereason.recipe.schema import DPO, GRPO, SFT, Recipe
from safereason.runs.directory import CHECKPOINTS
from safereason.runs.records import RecordLog
from safereason.training.resume import ResumePoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SectionT = TypeVar("SectionT", SFT, GRPO, DPO)


@dataclass(frozen=True)
class TrainingRun(Generic[SectionT]):
    """One training: the model it starts from, its settings, the folder it writes, and the checkpoint to resume from."""

    section: SectionT
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

    @classmethod
    def of_recipe(
        cls,
        recipe: Recipe,
        key: str,
        section: SectionT,
        start: ModelSpec,
        tokenizer: "PreTrainedTokenizerBase",
        metrics: RecordLog,
        resume: ResumePoint,
    ) -> "TrainingRun[SectionT]":
        """The training that a section of a recipe describes, in the run directory of the log `metrics`."""
        return TrainingRun(
            section=section,
            location=start.location,
            tokenizer=tokenizer,
            seed=recipe.seed,
            folder=metrics.path.parent,
            metrics=metrics,
            key=key,
            resume_from=resume.checkpoint,
            steps_done=resume.steps_done,
            report_to=recipe.report_to,
        )

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / CHECKPOINTS

    @property
    def model_folder(self) -> Path:
        """Folder of the trained model."""
        return self.folder / "model"
