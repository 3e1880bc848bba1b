"""Experiment trackers, beside the run directory: transformers' own callbacks, named after the run.

Nothing that a run makes depends on its tracker, so it is no part of the run's identity, and may change at a resume.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safereason.errors import InputError

NONE = "none"
PROJECT = "safereason"
"""What trackers keep runs under, where neither the environment nor `extra` says otherwise."""


def check(tracker: str) -> None:
    """Refuses a tracker that is not installed.

    Raises:
        InputError: It is missing; the message says how to get it.
    """
    if tracker != NONE and find_spec(tracker) is None:
        raise InputError(f"report_to: {tracker} is not installed; `pip install {tracker}` or pass report_to=none")


def track(trainer: Any, tracker: str, run: Path) -> None:
    """Has the trainer tell the tracker what it logs, as a run of the run directory's name.

    Tensorboard's files go to `run/tensorboard`; the others keep theirs where their own environment variables say.
    """
    if tracker == NONE:
        return
    from transformers.integrations import integration_utils

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
