"""Experiment trackers, which accelerate starts, with the run directory's name.

No result depends on the tracker, so it is no part of a run's identity, and may change at a resume.
"""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from safereason import processes
from safereason.errors import InputError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

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


class Tracker:
    """An experiment tracker that receives the metrics of each step, from the first process alone."""

    def __init__(self, tracker: str, run: Path) -> None:
        """Starts a run of the run directory's name; no tracker is started for `none`."""
        self._trackers: list[GeneralTracker] = []
        if tracker == NONE or not processes.is_main():
            return
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's trackers read it
        started = LOGGER_TYPE_TO_CLASS[tracker](**_tracker_arguments(tracker, run))
        started.start()
        self._trackers.append(started)

    def log(self, metrics: Mapping[str, float | None], step: int) -> None:
        """Sends the metrics of a step, under the names that trainers of transformers give them."""
        values = {f"train/{name}": value for name, value in metrics.items() if value is not None and name != "step"}
        for tracker in self._trackers:
            tracker.log(values, step=step)

    def close(self) -> None:
        """Ends the tracker's run."""
        for tracker in self._trackers:
            tracker.finish()


def _tracker_arguments(tracker: str, run: Path) -> dict[str, str]:
    """Arguments of accelerate's class for a tracker, each of which names project and run in its own way."""
    if tracker == "tensorboard":
        folder = os.environ.get("TENSORBOARD_LOGGING_DIR")
        return {"run_name": "", "logging_dir": folder or str(run / "tensorboard")}
    if tracker == "mlflow":
        return {"experiment_name": PROJECT, "run_name": run.name}  # $MLFLOW_EXPERIMENT_NAME goes before it
    project = PROJECT
    if tracker == "wandb":
        project = os.environ.get("WANDB_PROJECT", PROJECT)
    return {"run_name": project, "name": run.name}
