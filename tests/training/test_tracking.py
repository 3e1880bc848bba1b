"""Experiment trackers beside the run directory."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from training_parts import training_run
from transformers import TrainerCallback

from safereason.errors import InputError
from safereason.recipe.load import load
from safereason.recipe.schema import SFT
from safereason.runs.records import RecordLog
from safereason.stages import sft as stage
from safereason.stages.base import Options
from safereason.training import sft, tracking

TRACKERS = ("trackio", "wandb", "tensorboard", "mlflow")


class Tracker(TrainerCallback):
    """In place of a tracker's callback, which needs its package."""

    logging_dir = None


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_trackers_callback_is_added_and_the_run_named(tracker, tmp_path, monkeypatch):
    names, added = [], []
    kinds = "transformers.integrations.integration_utils.get_reporting_integration_callbacks"
    monkeypatch.setattr(kinds, lambda name: names.append(name) or [Tracker])
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(variable, "mine")
    trainer = SimpleNamespace(args=SimpleNamespace(run_name=None, project="huggingface"), add_callback=added.append)
    tracking.track(trainer, tracker, tmp_path / "own--model--0123")
    assert names == [tracker]
    assert isinstance(added[0], Tracker)
    assert (trainer.args.run_name, trainer.args.project) == ("own--model--0123", "safereason")
    folder = str(tmp_path / "own--model--0123" / "tensorboard") if tracker == "tensorboard" else None
    assert added[0].logging_dir == folder


def test_transformers_knows_each_tracker():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(TRACKERS) <= INTEGRATION_TO_CALLBACK.keys()


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
    import json

    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
