"""Experiment trackers: transformers' own callbacks, with a run of the same name as the run directory.

No result depends on the tracker, so it is no part of a run's identity, and may change at a resume.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from safereason.errors import InputError

if TYPE_CHECKING:
    from transformers import Trainer

NONE = "none"
PROJECT = "safereason"
"""The trackers' project, unless the environment or `extra` names another."""


def check(tracker: str) -> None:
    """Refuses a tracker that is not installed.

    Raises:
        InputError: It is missing; the message says how to get it.
    """
    if tracker != NONE and find_spec(tracker) is None:
        raise InputError(f"report_to: {tracker} is not installed; `pip install {tracker}` or pass report_to=none")


def track(trainer: "Trainer", tracker: str, run: Path) -> None:
    """Adds a tracker to a trainer, as a run of the run directory's name.

    Tensorboard's files go to `run/tensorboard`; the other trackers have environment variables of their own for theirs.
    """
    if tracker == NONE:
        return
    from transformers.integrations import integration_utils

    # Each tracker has its own way to name a project: two read the environment, and the others the arguments.
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.setdefault(variable, PROJECT)
    trainer.args.run_name = run.name
    if trainer.args.project == "huggingface":  # transformers' default
        trainer.args.project = PROJECT
    (kind,) = integration_utils.get_reporting_integration_callbacks(tracker)  # type: ignore[no-untyped-call]
    callback = kind()
    if tracker == "tensorboard":
        callback.logging_dir = callback.logging_dir or str(run / "tensorboard")
    trainer.add_callback(callback)
