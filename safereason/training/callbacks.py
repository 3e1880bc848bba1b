"""What a trainer tells the run directory: a row of metrics a step, which checkpoints are whole, and how it goes on."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from safereason import console, processes
from safereason.errors import InputError
from safereason.runs.records import RecordLog
from safereason.training.model import told_where
from safereason.training.tracking import track

COMPLETE = "complete"
"""Written into a checkpoint last: without it the checkpoint was cut off while it was being saved."""


class MetricsLog(TrainerCallback):
    """Appends what the trainer logs to `metrics.jsonl`, one record a step."""

    def __init__(self, log: RecordLog, advance: Callable[[str], None], shown: tuple[str, ...]) -> None:
        self._log = log
        self._advance = advance
        self._shown = shown

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """One record; the summary the trainer logs at its end has no place among the steps."""
        logs: dict[str, Any] = given["logs"]
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        self._log.append({"step": state.global_step, **{key: _finite(value) for key, value in logs.items()}})
        self._advance("  ".join(f"{key} {logs[key]:.3g}" for key in self._shown if logs.get(key) is not None))


def _finite(value: Any) -> Any:
    """The value, or None where JSON has no word for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class MarkComplete(TrainerCallback):
    """Marks a checkpoint whole once all of it is on disk."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Called after the trainer has written the checkpoint, of which every process may write a part."""
        processes.wait()
        if state.is_world_process_zero:
            (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def last_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest whole checkpoint and its step, or None."""
    found = [(p.parent, int(p.parent.name.rpartition("-")[2])) for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(found, key=lambda pair: pair[1], default=None)


def train_to_end(
    trainer: Trainer,
    checkpoint: Path | None,
    *,
    what: str,
    log: RecordLog,
    shown: tuple[str, ...],
    steps_done: int,
    report_to: str,
) -> None:
    """Trains from the start or from a checkpoint, with one progress bar, a record a step and marked checkpoints.

    Args:
        trainer: TRL's, ready to train.
        checkpoint: Where to go on from.
        what: The bar's name.
        log: Where a record a step goes.
        shown: Metrics that stand beside the bar.
        steps_done: The checkpoint's step.
        report_to: The tracker that is told beside the run directory, which is the log's.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(MarkComplete())
    track(trainer, report_to, log.path.parent)
    with console.progress(what, trainer.args.max_steps, steps_done) as advance:
        trainer.add_callback(MetricsLog(log, advance, shown))
        _train(trainer, checkpoint)


def _train(trainer: Trainer, checkpoint: Path | None) -> None:
    """From a checkpoint of the last step `train` would take a step too many, so that it is only loaded."""
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step >= state.max_steps:
            if processes.shards_model():  # nothing is there to load the parts into before a step is taken
                raise InputError(
                    f"{checkpoint}: training had ended, and its parts are not put together again; pass --overwrite"
                )
            trainer._load_from_checkpoint(str(checkpoint))
            trainer.state = state
            return
    with told_where(Path(str(trainer.args.output_dir))):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
