"""The hours of a training: arithmetic by hand, and where they are not known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.engines.spec import ModelSpec
from safereason.recipe.load import load
from safereason.recipe.schema import SFT
from safereason.stages.base import Options
from safereason.stages.plan_counts import planned_hours
from safereason.training import duration, fit
from safereason.training.fit import TrainingOnGpus
from safereason.training.memory import Shape

SHAPE = Shape(64, 2, 4, 2, 16, 128, 259)
A6000 = fit.parse_gpus("4xA6000")


def sft(**changes) -> SFT:
    return SFT(**{"epochs": 1, "learning_rate": 1e-5, "batch_size": 4, "max_tokens": 100, **changes})


def test_the_hours_of_an_sft_are_those_worked_out_by_hand():
    training = TrainingOnGpus("sft", sft(), SHAPE, A6000)
    weights = 2 * SHAPE.layer + 259 * 64
    row = 100 * (2 * weights + 2 * 2 * 64 * 100)
    # A forward pass and a backward pass of twice its work, on 1000 rows.
    seconds = 3 * 1000 * row / (4 * 155e12 * 0.4)
    assert duration.hours(training, {"sequences": 1000}) == pytest.approx(seconds / 3600)
    again = TrainingOnGpus("sft", sft(activation_checkpointing=True), SHAPE, A6000)
    assert duration.hours(again, {"sequences": 1000}) == pytest.approx(4 / 3 * seconds / 3600)


@given(st.integers(1, 64), st.integers(1, 10**6))
def test_twice_the_gpus_take_half_the_hours_and_twice_the_rows_twice(count, rows):
    one, two = (TrainingOnGpus("sft", sft(), SHAPE, fit.parse_gpus(f"{n}xA100")) for n in (count, 2 * count))
    hours = duration.hours(one, {"sequences": rows})
    assert duration.hours(two, {"sequences": rows}) == pytest.approx(hours / 2)
    assert duration.hours(one, {"sequences": 2 * rows}) == pytest.approx(2 * hours)


@pytest.mark.parametrize(
    ("gpus", "peak"),
    [("A6000", 155), ("4x48GB", 150), ("4x47.5GB", 150), ("80GB", 312), ("8xH200", 989), ("4x900GB", None)],
)
def test_of_gpus_of_a_size_the_slowest_counts(gpus, peak):
    rate = duration.rate_of(sft(), fit.parse_gpus(gpus))
    assert (rate and rate.peak) == peak
    if rate is None:
        assert duration.hours(TrainingOnGpus("sft", sft(), SHAPE, fit.parse_gpus(gpus)), {"sequences": 9}) is None


def test_rl_draws_scores_and_trains():
    recipe = load("tars-1.5b")

    def hours(*overrides: str) -> float:
        changed = load("tars-1.5b", list(overrides))
        return planned_hours(changed, Options(), ("rl",), A6000)["hours at most"]

    whole = planned_hours(recipe, Options(), ("rl",), A6000)
    assert whole["at"] == (
        "155 TFLOPS a GPU, 40% of them used in training and 10% in drawing, every row at its longest: an estimate"
    )
    for cheaper in ("rl.kl_coef=0.0", "rl.activation_checkpointing=false", "rl.reward.task=compliance", "rl.epochs=1"):
        assert hours(cheaper) < whole["hours at most"], cheaper
    assert hours("rl.rollouts=engine") > whole["hours at most"]
    assert planned_hours(load("baseline-dpo"), Options(), ("rl",), A6000)["hours at most"] > 0


def test_without_a_shape_or_a_rate_a_plan_has_no_hours():
    recipe = load("tars-1.5b")
    assert planned_hours(recipe, Options(model=ModelSpec("org/none")), ("rl",), A6000) == {}
    assert planned_hours(recipe, Options(), ("rl",), fit.parse_gpus("4x900GB")) == {}
    named = Options(model=ModelSpec(recipe.model))
    assert planned_hours(recipe, named, ("rl",), A6000) == planned_hours(recipe, Options(), ("rl",), A6000)
    both = planned_hours(recipe, Options(), ("sft", "rl"), A6000)["hours at most"]
    parts = [planned_hours(recipe, Options(), (key,), A6000)["hours at most"] for key in ("sft", "rl")]
    assert both == pytest.approx(sum(parts), abs=0.1)
