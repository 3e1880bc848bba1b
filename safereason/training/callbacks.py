"""The connection of a trainer to the run directory: metrics of each step, whole checkpoints, and resuming from them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from safereason import console, processes
from safereason.errors import InputError
from safereason.runs.records import Record, RecordLog, finite_or_none, read_record
from safereason.training import offload
from safereason.training.model import report_full_disk, report_full_memory
from safereason.training.resume import COMPLETE
from safereason.training.sharding import reduce_in_fp32
from safereason.training.tracking import Tracker
from safereason.training.training_run import SectionT, TrainingRun

if TYPE_CHECKING:
    from trl import DPOTrainer, SFTTrainer

TRAINER_STATE = "trainer_state.json"
"""transformers' file in a checkpoint with the step and the history of the log."""


class MetricsLog(TrainerCallback):
    """The trainer's metrics as one record a step, in `metrics.jsonl` and in the experiment tracker."""

    def __init__(
        self, log: RecordLog, tracker: Tracker, advance: Callable[[str], None], shown: tuple[str, ...]
    ) -> None:
        """A callback that logs.

        Args:
            log: `metrics.jsonl`.
            tracker: The experiment tracker.
            advance: Moves the progress bar.
            shown: Metrics that are shown beside the bar.
        """
        self._log = log
        self._tracker = tracker
        self._advance = advance
        self._shown = shown

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **given: object,
    ) -> None:
        """Appends one record."""
        # The summary that the trainer logs at its end is no step.
        if logs is None or not state.is_world_process_zero or "train_runtime" in logs:
            return
        record: Record = {"step": state.global_step}
        for key, value in logs.items():
            record[key] = finite_or_none(value)
        self._log.append(record)
        self._tracker.log(record, state.global_step)
        shown = [f"{key} {logs[key]:.3g}" for key in self._shown if logs.get(key) is not None]
        self._advance("  ".join(shown))


class MarkComplete(TrainerCallback):
    """Marks a checkpoint whole once all of it is on disk."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: object) -> None:
        """Called after the trainer has written the checkpoint."""
        # Every process may write a part of it, so that the first one alone does not know when it is whole.
        processes.wait()
        if state.is_world_process_zero:
            (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def restore_token_count(trainer: "SFTTrainer | DPOTrainer", checkpoint: Path) -> None:
    """Restores TRL's counter of trained tokens, which its checkpoints hold in the log alone."""
    state = read_record(checkpoint / TRAINER_STATE)
    trainer._total_train_tokens = int(state["log_history"][-1]["num_tokens"])


def train_to_end(trainer: Trainer, run: TrainingRun[SectionT], *, title: str, shown: tuple[str, ...]) -> None:
    """Trains from the start or from a checkpoint, with one progress bar, a record per step and marked checkpoints.

    Args:
        trainer: TRL's, ready to train.
        run: Settings of the training; a tracker gets the metrics beside its log.
        title: Title of the progress bar.
        shown: Metrics beside the bar.

    Raises:
        StageFailed: The memory is too small for a step, or the disk for a checkpoint.
    """
    trainer.remove_callback(PrinterCallback)  # it prints every step, beside the bar
    trainer.add_callback(MarkComplete())
    if offload.chosen_offload(run.section, run.key, run.location) == "optimizer":
        trainer.add_callback(offload.ParkOptimizer())
    tracker = Tracker(run.report_to, run.folder)
    reduce_in_fp32(trainer.accelerator)
    with console.progress(title, trainer.args.max_steps, run.steps_done) as advance:
        trainer.add_callback(MetricsLog(run.metrics, tracker, advance, shown))
        with report_full_memory(run.section, run.key):
            _train_from(trainer, run.resume_from)
    tracker.close()


def _train_from(trainer: Trainer, checkpoint: Path | None) -> None:
    """Trains from a checkpoint, or from the start; a checkpoint of the last step is only loaded."""
    resume_from = None
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))
        if state.global_step >= state.max_steps:
            # `train` would take one step too many.
            _load_finished(trainer, checkpoint, state)
            return
        resume_from = str(checkpoint)
    with report_full_disk(Path(str(trainer.args.output_dir))):
        trainer.train(resume_from_checkpoint=resume_from)


def _load_finished(trainer: Trainer, checkpoint: Path, state: TrainerState) -> None:
    """Loads the weights and the state of a training that took its last step before it was killed.

    Raises:
        InputError: The model is sharded.
    """
    if processes.shards_model():
        # The parts are loaded into sharded modules, which exist only once a step is taken.
        raise InputError(
            f"{checkpoint}: training had ended, and its parts are not put together again; pass --overwrite"
        )
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = state
