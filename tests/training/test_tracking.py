"""Experiment trackers beside the run directory."""

import json
from importlib.util import find_spec

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from training_parts import training_run

from safereason.errors import InputError
from safereason.recipe.load import load
from safereason.recipe.schema import SFT
from safereason.runs.records import RecordLog
from safereason.stages import sft as stage
from safereason.stages.base import Options
from safereason.training import sft, tracking

TRACKERS = ("trackio", "wandb", "tensorboard", "mlflow")


class Recording:
    """In place of accelerate's class for a tracker, which needs its package."""

    def __init__(self, **arguments: str) -> None:
        self.arguments = arguments
        self.calls = []

    def start(self) -> None:
        self.calls.append("start")

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append((values, step))

    def finish(self) -> None:
        self.calls.append("finish")


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_gets_the_metrics_and_the_runs_name(name, tmp_path, monkeypatch):
    started = []

    def start(**arguments: str) -> Recording:
        started.append(Recording(**arguments))
        return started[0]

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, start)
    for variable in ("WANDB_PROJECT", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.delenv(variable, raising=False)
    run = tmp_path / "own--model--0123"
    tracker = tracking.Tracker(name, run)
    tracker.log({"step": 3, "loss": 0.5, "kl": None}, 3)
    tracker.close()
    (recording,) = started
    assert recording.calls == ["start", ({"train/loss": 0.5}, 3), "finish"]
    if name == "tensorboard":
        assert recording.arguments["logging_dir"] == str(run / "tensorboard")
    else:
        assert {"safereason", "own--model--0123"} == set(recording.arguments.values())


def test_accelerate_knows_each_tracker():
    assert set(TRACKERS) <= LOGGER_TYPE_TO_CLASS.keys()


def test_a_tracker_that_is_missing_is_refused_before_a_run_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda package: None)
    recipe = load("tars-smoke", ["report_to=wandb"])
    with pytest.raises(InputError) as refused:
        stage.train_sft(recipe, Options(root=tmp_path))
    assert str(refused.value) == "report_to: wandb is not installed; `pip install wandb` or pass report_to=none"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_gets_what_the_run_directory_gets(micro_model, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    section = SFT(epochs=1, learning_rate=1e-4, batch_size=4, micro_batch_size=4, precision="fp32")
    rows = [{"input_ids": list(range(20)), "completion_mask": [0] * 5 + [1] * 15}] * 8
    with RecordLog(tmp_path / "metrics.jsonl") as log:
        sft.train(training_run(section, micro_model, tmp_path, log, key="sft", report_to="tensorboard"), rows)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
