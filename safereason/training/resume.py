"""Whole checkpoints, and the point from which a killed training goes on."""

from pathlib import Path
from typing import NamedTuple

from safereason.runs.directory import CHECKPOINTS
from safereason.runs.records import Record, keep_records

COMPLETE = "complete"
"""Written into a checkpoint last: without it the checkpoint was cut off while it was being saved."""


def whole_checkpoints(folder: Path) -> list[tuple[Path, int]]:
    """The whole checkpoints of a folder with their steps, the newest last."""
    checkpoints: list[tuple[Path, int]] = []
    for mark in folder.glob(f"checkpoint-*/{COMPLETE}"):
        checkpoints.append((mark.parent, int(mark.parent.name.rpartition("-")[2])))
    return sorted(checkpoints, key=lambda checkpoint: checkpoint[1])


def last_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest whole checkpoint and its step, or None."""
    whole = whole_checkpoints(folder)
    if not whole:
        return None
    return whole[-1]


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
    checkpoint, done = last_checkpoint(run / CHECKPOINTS) or (None, 0)

    def is_done(record: Record) -> bool:
        # Without a checkpoint even the validation before the first step is repeated.
        return checkpoint is not None and record["step"] <= done

    for name in logs:
        keep_records(run / f"{name}.jsonl", is_done)
    return ResumePoint(checkpoint, done)
