"""The point from which a killed training goes on."""

from pathlib import Path
from typing import NamedTuple

from safereason.runs.directory import CHECKPOINTS
from safereason.runs.records import Record, keep_records


class ResumePoint(NamedTuple):
    """The newest whole checkpoint of a run, and the optimizer steps that it holds; None and 0 where there is none."""

    checkpoint: Path | None
    steps_done: int


def resume_point(run: Path, *logs: str) -> ResumePoint:
    """The point from which the training of a run goes on.

    Records of later steps are dropped from the logs, since the training repeats those steps.

    Args:
        run: Run directory.
        *logs: Names of the logs that hold a record a step.
    """
    from safereason.training.callbacks import last_checkpoint

    checkpoint, done = last_checkpoint(run / CHECKPOINTS) or (None, 0)

    def is_done(record: Record) -> bool:
        # Without a checkpoint even the validation before the first step is repeated.
        return checkpoint is not None and record["step"] <= done

    for name in logs:
        keep_records(run / f"{name}.jsonl", is_done)
    return ResumePoint(checkpoint, done)
