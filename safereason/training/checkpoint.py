"""Checkpoints of our own training loop: weights, optimizer and schedule, each process its part.

torch's distributed checkpoints hold tensors by their names, whatever the layout: a training goes on with another number
of processes, or with parts where it was whole.
"""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from safereason import processes
from safereason.runs.records import Record, read_record, write_json
from safereason.training.model import first_failure, report_full_disk
from safereason.training.resume import COMPLETE, whole_checkpoints

LOOP_STATE = "loop.json"
"""File in a checkpoint with what no tensor holds: counters, and the schedule of the learning rate."""
CHECKPOINTS_KEPT = 2
"""Checkpoints that are kept, so that one is whole while the next is being written."""

# Weights that are not trained are those of the start.
_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


def save(
    folder: Path, step: int, model: PreTrainedModel, optimizer: Optimizer, schedule: LRScheduler, counters: Record
) -> None:
    """Writes the checkpoint of a step and marks it whole; older ones but the last are deleted. Every process calls it.

    Raises:
        StageFailed: It cannot be written.
    """
    target = folder / f"checkpoint-{step}"
    if processes.is_main():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
    processes.wait()
    weights, state = get_state_dict(model, optimizer, options=_TRAINED)
    with report_full_disk(folder):
        with _quiet():
            save_parts({"model": weights, "optimizer": state}, checkpoint_id=target)
        if processes.is_main():
            write_json(target / LOOP_STATE, {**counters, "step": step, "schedule": schedule.state_dict()})
    # Every process writes a part of it, so that the first one alone does not know when it is whole.
    processes.wait()
    if processes.is_main():
        (target / COMPLETE).touch()
        for old, _ in whole_checkpoints(folder)[:-CHECKPOINTS_KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def load(checkpoint: Path, model: PreTrainedModel, optimizer: Optimizer, schedule: LRScheduler) -> Record:
    """Puts a checkpoint into a training, and returns its counters. Every process calls it."""
    weights, state = get_state_dict(model, optimizer, options=_TRAINED)
    parts: dict[str, Any] = {"model": weights, "optimizer": state}
    with _quiet(), first_failure():
        load_parts(parts, checkpoint_id=checkpoint)
    set_state_dict(
        model, optimizer, model_state_dict=parts["model"], optim_state_dict=parts["optimizer"], options=_TRAINED
    )
    counters = read_record(checkpoint / LOOP_STATE)
    schedule.load_state_dict(counters["schedule"])
    return counters


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without the warning that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield
