"""The sft stage on the micro model."""

import re

import fake_gpu
import pytest

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.recipe.schema import Recipe
from safereason.runs.directory import read_manifest
from safereason.runs.manifest import sha256
from safereason.runs.records import read_json, read_records
from safereason.stages import data, sft
from safereason.stages.base import Options

SAMPLE = [{"source": "sample", "prompts": 40}]
TARS = {
    "mix": "tars",
    "prompts": 8,
    "harmful_ratio": 0.5,
    "harmful": SAMPLE,
    "harmless": SAMPLE,
    "ambiguous": SAMPLE,
    "traces": [{"source": "sample", "prompts": 12}],
}
SFT = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 4, "micro_batch_size": 2, "precision": "fp32"}


def recipe_of(model, **section) -> Recipe:
    return Recipe(name="tiny", model=str(model), data=TARS, sft={**SFT, **section})


@pytest.fixture(scope="module")
def root(micro_model, tmp_path_factory):
    """A folder with built data."""
    root = tmp_path_factory.mktemp("sft")
    data.build_data(recipe_of(micro_model), Options(root=root))
    return root


@pytest.fixture(scope="module")
def trained(micro_model, root):
    return sft.train_sft(recipe_of(micro_model), Options(root=root))


def test_a_run_holds_model_metrics_and_what_it_read(trained, root):
    assert trained.metrics == read_json(trained.run / "metrics.json")
    assert {key: trained.metrics[key] for key in trained.metrics if key != "mean_loss"} == {
        "steps": 3,
        "rows": 12,
        "dropped_too_long": 0,
        "dropped_empty_reasoning": 0,
    }
    assert [record["step"] for record in read_records(trained.run / "metrics.jsonl")] == [1, 2, 3]
    assert (trained.run / "model" / "model.safetensors").is_file()
    (traces,) = root.glob("data/*/traces.parquet")
    manifest = read_manifest(trained.run)
    assert (manifest["status"], manifest["stage"], manifest["inputs"]) == (
        "finished",
        "sft",
        {str(traces): sha256(traces)},
    )


def test_the_same_recipe_trains_the_same_model(micro_model, trained, tmp_path, root):
    again = sft.train_sft(recipe_of(micro_model), Options(root=root, out=tmp_path / "again"))
    assert again.metrics == trained.metrics
    name = "model/model.safetensors"
    assert (again.run / name).read_bytes() == (trained.run / name).read_bytes()


def test_bf16_on_a_gpu_that_emulates_it_is_refused_before_there_is_a_run(micro_model, root, tmp_path, monkeypatch):
    fake_gpu.install(monkeypatch, capability=(7, 5))
    with pytest.raises(
        InputError, match=r"^sft\.precision: bf16 is only emulated by this GPU.*; pass sft\.precision=fp32$"
    ):
        sft.train_sft(recipe_of(micro_model, precision="bf16"), Options(root=root, out=tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_long_traces_are_counted(micro_model, root, tmp_path):
    recipe = recipe_of(micro_model, max_tokens=330, batch_size=1, micro_batch_size=1, max_steps=1)
    metrics = sft.train_sft(recipe, Options(root=root, out=tmp_path / "short")).metrics
    assert metrics["dropped_too_long"] > 0
    assert metrics["rows"] + metrics["dropped_too_long"] == 12


def test_a_finished_run_is_returned_as_it_is(micro_model, root, trained):
    before = (trained.run / "manifest.json").read_bytes()
    resumed = sft.train_sft(recipe_of(micro_model), Options(root=root, on_existing="resume"))
    assert resumed == trained
    assert (trained.run / "manifest.json").read_bytes() == before
    assert sft.train_sft(recipe_of(micro_model), Options(root=root)).run == trained.run


def test_another_recipe_is_another_run(micro_model, trained, root):
    other = recipe_of(micro_model, learning_rate=2e-3)
    base = ModelSpec.parse(str(micro_model))
    assert sft.sft_identity(other, base) != sft.sft_identity(recipe_of(micro_model), base)
    with pytest.raises(InputError, match=r"the recipe changed since \(sft.learning_rate\)"):
        sft.train_sft(other, Options(root=root, out=trained.run, on_existing="resume"))


def test_another_model_can_be_named(micro_model, root, trained, tmp_path):
    options = Options(root=root, model=ModelSpec.parse(str(trained.run)), out=tmp_path / "further")
    further = sft.train_sft(recipe_of(micro_model, max_steps=1), options)
    (first,) = read_records(further.run / "metrics.jsonl")
    assert first["loss"] < next(read_records(trained.run / "metrics.jsonl"))["loss"]


def test_without_reasoning_the_answers_alone_are_trained_on(micro_model, root, tmp_path):
    bare = recipe_of(micro_model, reasoning=False, max_steps=1)
    plain = sft.train_sft(bare, Options(root=root, out=tmp_path / "plain")).run
    whole = sft.train_sft(recipe_of(micro_model, max_steps=1), Options(root=root, out=tmp_path / "whole")).run
    (without,), (with_it,) = (list(read_records(run / "metrics.jsonl")) for run in (plain, whole))
    assert without["num_tokens"] < with_it["num_tokens"]


def test_the_plan_says_what_trl_is_given(micro_model, root, tmp_path):
    plan = sft.sft_outline(recipe_of(micro_model), Options(root=root))
    assert (plan["rows"], plan["steps"], plan["sequences"], plan["tokens at most"]) == (12, 3, 12, 12 * 4608)
    assert plan["SFTConfig"]["learning_rate"] == 1e-3
    unbuilt = sft.sft_outline(recipe_of(micro_model, epochs=2), Options(root=tmp_path))
    assert (unbuilt["rows"], unbuilt["steps"]) == (12, 6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sft": None}, "recipe tiny: it has no sft section"),
        ({"model": "./nowhere"}, "no such model"),
        (
            {"sft": {**SFT, "batch_size": 13, "micro_batch_size": 13}},
            "sft.batch_size: 12 rows do not fill one batch of 13",
        ),
        ({"sft": {**SFT, "micro_batch_size": 3}}, "sft.micro_batch_size: 3 does not divide"),
        ({"sft": {**SFT, "extra": {"seed": 1}}}, "sft.extra.seed: this is set by a field"),
    ],
)
def test_what_cannot_be_trained_is_said_and_nothing_is_left(micro_model, root, tmp_path, change, message):
    recipe = Recipe(**{**recipe_of(micro_model).model_dump(), **change})
    with pytest.raises(InputError, match=message):
        sft.train_sft(recipe, Options(root=root, out=tmp_path / "run"))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_without_data_the_command_that_builds_it_is_named(micro_model, tmp_path):
    remedy = re.escape(f"run `safereason data build --recipe tiny --root {tmp_path}` first")
    with pytest.raises(InputError, match=rf"no finished data run of tiny .* {remedy}$"):
        sft.train_sft(recipe_of(micro_model), Options(root=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("most", "message"), [(5, "12 of 12 rows are longer than 5 tokens; raise it")])
def test_rows_that_are_all_too_long_are_said_with_the_key(micro_model, tmp_path, most, message):
    recipe = recipe_of(micro_model, max_tokens=most)
    options = Options(root=tmp_path)
    data.build_data(recipe, options)
    with pytest.raises(InputError, match=rf"^sft\.max_tokens: {message}"):
        sft.train_sft(recipe, options)
