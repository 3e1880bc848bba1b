"""The rl stage on the micro model: from built data and a finished sft run to a model and its rollouts."""

import re

import pytest

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.recipe.schema import Recipe
from safereason.runs.directory import read_manifest
from safereason.runs.records import read_json, read_records
from safereason.stages import data, rl, sft
from safereason.stages.base import Options

SAMPLE = [{"source": "sample", "prompts": 40}]
TARS = {
    "mix": "tars",
    "prompts": 8,
    "harmful_ratio": 0.5,
    "harmful": SAMPLE,
    "harmless": SAMPLE,
    "ambiguous": SAMPLE,
    "traces": [{"source": "sample", "prompts": 4}],
}
SFT = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 4, "precision": "fp32"}
GRPO = {
    "epochs": 1,
    "learning_rate": 1e-3,
    "prompts_per_step": 4,
    "rollouts_per_prompt": 2,
    "micro_batch_size": 4,
    "kl_coef": 0.1,
    # Equal rewards alone would move no weight.
    "entropy_coef": 0.01,
    "max_prompt_tokens": 256,
    "sampling": {"max_new_tokens": 8},
    "precision": "fp32",
    "reward": {"name": "tars", "safety": "refusal", "task": "compliance", "require_format": False},
}


def recipe_of(model, with_sft: bool = True, **section) -> Recipe:
    return Recipe(name="tiny", model=str(model), data=TARS, sft=SFT if with_sft else None, rl={**GRPO, **section})


@pytest.fixture(scope="module")
def root(micro_model, tmp_path_factory):
    """A folder with built data and a finished sft run."""
    root = tmp_path_factory.mktemp("rl")
    data.build_data(recipe_of(micro_model), Options(root=root))
    sft.train_sft(recipe_of(micro_model), Options(root=root))
    return root


@pytest.fixture(scope="module")
def trained(micro_model, root):
    return rl.train_rl(recipe_of(micro_model), Options(root=root))


def test_a_run_holds_model_metrics_and_rollouts(trained):
    assert trained.metrics == read_json(trained.run / "metrics.json")
    assert trained.metrics == {"steps": 2, "prompts": 8, "dropped_too_long": 0}
    steps = list(read_records(trained.run / "metrics.jsonl"))
    assert [record["step"] for record in steps] == [1, 2]
    assert steps[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert steps[1]["kl"] > 0
    assert {"format", "safety", "task", "unscored", "reward", "entropy"} <= steps[0].keys()
    assert (trained.run / "model" / "model.safetensors").is_file()
    assert read_manifest(trained.run)["status"] == "finished"


def test_every_prompt_has_its_group_of_rollouts(trained):
    rollouts = list(read_records(trained.run / "rollouts.jsonl"))
    assert [record["step"] for record in rollouts] == [1] * 8 + [2] * 8
    groups = [rollouts[start : start + 2] for start in range(0, 16, 2)]
    assert all(first["id"] == second["id"] for first, second in groups)
    assert len({first["id"] for first, _ in groups}) == 8
    assert all(1 <= record["tokens"] <= 8 for record in rollouts)


def test_rl_starts_from_the_sft_run_of_the_recipe(micro_model, root, trained):
    (finished,) = root.glob("sft/tiny--*")
    assert rl.start_model(recipe_of(micro_model), Options(root=root)) == ModelSpec.parse(str(finished))
    assert read_manifest(trained.run)["identity"]["model"].startswith("sft/tiny/")
    assert rl.start_model(recipe_of(micro_model, with_sft=False), Options(root=root)) == ModelSpec.parse(
        str(micro_model)
    )
    assert rl.start_model(
        recipe_of(micro_model), Options(root=root, model=ModelSpec.parse("org/name"))
    ) == ModelSpec.parse("org/name")


def test_long_prompts_are_left_out_and_counted(micro_model, root, tmp_path):
    recipe = recipe_of(micro_model, max_prompt_tokens=100, prompts_per_step=1, micro_batch_size=2, max_steps=1)
    metrics = rl.train_rl(recipe, Options(root=root, out=tmp_path / "short")).metrics
    assert metrics["dropped_too_long"] > 0
    assert metrics["prompts"] + metrics["dropped_too_long"] == 8


def test_adapters_are_trained_and_merged(micro_model, root, tmp_path):
    recipe = recipe_of(micro_model, lora={"rank": 2}, max_steps=1)
    run = rl.train_rl(recipe, Options(root=root, out=tmp_path / "lora")).run
    assert (run / "model" / "model.safetensors").is_file()
    assert not list(run.glob("model/adapter*"))


def test_without_a_kl_term_none_is_logged(micro_model, root, tmp_path):
    run = rl.train_rl(recipe_of(micro_model, kl_coef=0.0, max_steps=1), Options(root=root, out=tmp_path / "free")).run
    (step,) = read_records(run / "metrics.jsonl")
    assert "kl" not in step


def test_a_finished_run_is_returned_as_it_is(micro_model, root, trained):
    assert rl.train_rl(recipe_of(micro_model), Options(root=root, on_existing="resume")) == trained
    assert rl.train_rl(recipe_of(micro_model), Options(root=root)).run == trained.run


def test_the_plan_says_what_the_training_is_given(micro_model, root, tmp_path):
    plan = rl.rl_outline(recipe_of(micro_model), Options(root=root))
    assert (plan["prompts"], plan["steps"], plan["sequences"], plan["tokens generated at most"]) == (8, 2, 16, 128)
    assert plan["reference model"] == "a frozen copy of the start"
    assert (plan["processes"], plan["rollouts in one forward pass"], plan["forward passes a step"]) == (1, 4, 2)
    unbuilt = rl.rl_outline(recipe_of(micro_model, kl_coef=0.0), Options(root=tmp_path))
    assert (unbuilt["prompts"], unbuilt["reference model"]) == (8, "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rl": None}, "recipe tiny: it has no rl section"),
        ({"rl": {**GRPO, "micro_batch_size": 3}}, "rl.micro_batch_size: 3 does not divide the 8 sequences"),
        ({"rl": {**GRPO, "prompts_per_step": 10}}, "rl.prompts_per_step: 8 rows do not fill one batch of 10"),
        (
            {"rl": {**GRPO, "max_prompt_tokens": 5}},
            "^rl.max_prompt_tokens: 8 of 8 rows are longer than 5 tokens; raise it",
        ),
        ({"rl": {**GRPO, "extra": {"beta": 1.0}}}, "rl.extra.beta: has no meaning here; extra holds arguments of vLLM"),
        ({"rl": {**GRPO, "reward": {**GRPO["reward"], "safety": "nobody"}}}, "nobody"),
    ],
)
def test_what_cannot_be_trained_is_said_and_no_model_is_left(micro_model, root, tmp_path, change, message):
    recipe = Recipe(**{**recipe_of(micro_model).model_dump(), **change})
    with pytest.raises(InputError, match=message):
        rl.train_rl(recipe, Options(root=root, out=tmp_path / "run"))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_without_an_sft_run_the_command_that_makes_it_is_named(micro_model, tmp_path):
    data.build_data(recipe_of(micro_model), Options(root=tmp_path))
    remedy = re.escape(f"run `safereason sft --recipe tiny --root {tmp_path}` first")
    with pytest.raises(InputError, match=rf"no finished sft run of tiny .* {remedy}$"):
        rl.train_rl(recipe_of(micro_model), Options(root=tmp_path))
    assert not (tmp_path / "rl").exists()
