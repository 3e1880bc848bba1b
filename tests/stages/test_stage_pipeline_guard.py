"""`run` with guards: a guard's own recipe, and a guard that judges in another recipe and is trained before it."""

import json
import re
from pathlib import Path

import micro_guard
import pytest

from safereason.errors import InputError
from safereason.judges import JudgeSpec
from safereason.recipe import load as recipes
from safereason.recipe import named
from safereason.recipe.schema import Recipe
from safereason.runs.directory import RunDirectory, read_manifest
from safereason.runs.records import read_json, read_records
from safereason.stages import pipeline
from safereason.stages.base import (
    Options,
    named_guard,
    resolved_judge,
    trained_guard,
)

EVALS = [f"eval {name} of {model}" for model in ("base", "sft", "rl") for name in ("harmbench", "xstest")]


def test_the_steps_of_a_guards_recipe():
    assert pipeline.pipeline_steps(recipes.load("rsafe-smoke")) == [
        "data",
        "guard sft",
        "guard rl",
        "eval guard of base",
        "eval guard of guard sft",
        "eval guard of guard rl",
        "report",
    ]
    assert "guard sft" not in pipeline.pipeline_steps(recipes.load("rsafe"))
    assert "guard rl" not in pipeline.pipeline_steps(recipes.load("rsafe-sft-noreason"))


def test_the_steps_of_a_recipe_that_a_guard_judges_in():
    guarded = recipes.load("tars-guarded-smoke")
    assert pipeline.judging_guards(guarded) == ["rsafe-smoke"]
    assert pipeline.pipeline_steps(guarded) == ["guard rsafe-smoke", "data", "sft", "rl", *EVALS, "report"]
    assert pipeline.pipeline_steps(recipes.load("tars-smoke")) == ["data", "sft", "rl", *EVALS, "report"]


@pytest.mark.parametrize(
    ("safety", "harm", "expected"),
    [
        ("guard:one", "guard:two", ["one", "two"]),
        ("refusal", "guard:two", ["two"]),
        ("guard:runs/guard/rl/x", "guard:org/name", []),
        ("moderation:omni", "refusal", []),
    ],
)
def test_guards_that_are_recipes_are_told_from_models(safety: str, harm: str, expected: list[str]):
    recipe = recipes.load("tars-smoke", [f"rl.reward.safety={safety!r}", f"eval.harm_judge={harm!r}"])
    assert pipeline.judging_guards(recipe) == expected


def test_a_folder_is_no_recipe_even_with_the_name_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = JudgeSpec.parse("guard:rsafe-smoke")
    assert named_guard(named) == "rsafe-smoke"
    (tmp_path / "rsafe-smoke").mkdir()
    assert named_guard(named) is None
    others = ("guard:llama-guard:x", "guard:moderation", "guard:org/name", "refusal", "moderation:rsafe")
    assert [named_guard(JudgeSpec.parse(judge)) for judge in others] == [None] * 5


def finished(root: Path, stage: str, recipe: str, number: int) -> Path:
    path = root / stage / f"{recipe}--m--{number}"
    with RunDirectory(path, stage, recipe, "", {"number": number}) as run:
        run.finish({"number": number})
    return path


def test_the_newest_guard_by_rl_is_taken_else_the_newest_by_sft(tmp_path):
    options = Options(root=tmp_path)
    with pytest.raises(InputError, match=rf"no trained guard of tiny under {tmp_path}/; run `safereason guard train"):
        trained_guard("tiny", options)
    by_sft = [finished(tmp_path, "guard/sft", "tiny", number) for number in (1, 2)]
    assert trained_guard("tiny", options) == by_sft[1]
    by_rl = [finished(tmp_path, "guard/rl", "tiny", number) for number in (3, 4)]
    finished(tmp_path, "guard/sft", "tiny", 5)
    finished(tmp_path, "guard/rl", "tiny-other", 6)
    assert trained_guard("tiny", options) == by_rl[1]
    assert str(resolved_judge(JudgeSpec.parse("guard:tiny"), options)) == f"guard:{by_rl[1]}"
    for judge in ("refusal", f"guard:{by_rl[0]}", "guard:org/name", "moderation:omni"):
        spec = JudgeSpec.parse(judge)
        assert resolved_judge(spec, options) == spec


def test_a_judges_identity_is_its_guards_and_no_path(tmp_path):
    first, second = (finished(tmp_path / name, "guard/rl", "tiny", 3) for name in ("here", "there"))
    other = finished(tmp_path, "guard/rl", "tiny", 4)
    identity = JudgeSpec.parse(f"guard:{first}").identity()
    assert identity == JudgeSpec.parse(f"guard:{second}").identity() != JudgeSpec.parse(f"guard:{other}").identity()
    assert identity.startswith("guard:guard/rl/tiny/")
    for judge in ("refusal", "guard:org/name"):
        assert JudgeSpec.parse(judge).identity() == judge


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> str:
    """The name of a guard's recipe that counts as one that comes with safereason."""
    model = micro_guard.save_guard(tmp_path / "decider")
    rows = [
        {
            "id": f"mine/{label}-{i}",
            "prompt": f"{label} thing {i}?",
            "kind": "harmless",
            "source": "mine",
            "label": label,
            "response": f"So it is: {i}.",
        }
        for label in ("safe", "unsafe")
        for i in range(6)
    ]
    source, policy, file = (tmp_path / name for name in ("mine.jsonl", "rules.yaml", "little-guard.yaml"))
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy.write_text(micro_guard.POLICY)
    document = {
        "model": str(model),
        "data": {"mix": "rsafe", "rows_per_label": 4, "sources": [str(source)], "hygiene": {"near_duplicate": None}},
        "guard": {
            "policy": str(policy),
            "reasoning": False,
            "sft": {
                "epochs": 1,
                "max_steps": 1,
                "learning_rate": 1e-9,
                "batch_size": 2,
                "micro_batch_size": 2,
                "precision": "fp32",
            },
            "sampling": {"temperature": 0.0, "max_new_tokens": 20},
            "eval": {"sets": [{"source": str(source), "safe": 1, "unsafe": 1, "skip": 5}], "resamples": 50},
        },
    }
    file.write_text(json.dumps(document))
    for module in (named, pipeline):
        monkeypatch.setattr(module, "shipped", lambda: [file])
    return "little-guard"


@pytest.fixture
def guarded(shipped, micro_model) -> Recipe:
    """TARS without evaluations, rewarded by that guard."""
    sample = [{"source": "sample", "prompts": 40}]
    return Recipe(
        name="guarded",
        model=str(micro_model),
        data={
            "mix": "tars",
            "prompts": 4,
            "harmful_ratio": 0.5,
            "harmful": sample,
            "harmless": sample,
            "ambiguous": sample,
            "traces": sample,
        },
        rl={
            "epochs": 1,
            "max_steps": 1,
            "learning_rate": 1e-3,
            "prompts_per_step": 4,
            "rollouts_per_prompt": 2,
            "micro_batch_size": 8,
            "kl_coef": 0.0,
            "max_prompt_tokens": 256,
            "sampling": {"max_new_tokens": 8},
            "precision": "fp32",
            "reward": {"name": "tars", "safety": f"guard:{shipped}", "task": "compliance", "require_format": False},
        },
    )


def test_a_named_guard_is_trained_first_and_once(guarded, shipped, tmp_path, capsys):
    options = Options(root=tmp_path / "runs")
    assert pipeline.pipeline_steps(guarded) == ["guard little-guard", "data", "rl", "report"]
    done = pipeline.run_pipeline(guarded, options).metrics["runs"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[1/4] guard little-guard"
    trained = Path(done["guard little-guard"])
    assert trained == trained_guard(shipped, options)
    rollouts = list(read_records(Path(done["rl"]) / "rollouts.jsonl"))
    judged = [r["parts"]["safety"] for r in rollouts if r["kind"] == "harmful"]
    assert judged
    assert set(judged) <= {0.0, 1.0}
    assert read_manifest(Path(done["rl"]))["identity"]["guard"] == JudgeSpec.parse(f"guard:{trained}").identity()
    before = (trained / "manifest.json").read_bytes()
    again = pipeline.run_pipeline(guarded, options).metrics["runs"]
    lines = capsys.readouterr().err.splitlines()
    assert f"[1/4] guard little-guard: finished before, skipped: {trained}" in lines
    assert f"[3/4] rl: finished before, skipped: {done['rl']}" in lines
    assert again == done
    assert (trained / "manifest.json").read_bytes() == before
    assert len(list((tmp_path / "runs/guard/sft").iterdir())) == 1


def test_a_guard_of_ones_own_recipe_has_to_be_there(guarded, tmp_path, shipped):
    own = guarded.model_copy(
        update={
            "rl": guarded.rl.model_copy(
                update={"reward": guarded.rl.reward.model_copy(update={"safety": "guard:mine"})}
            )
        }
    )
    options = Options(root=tmp_path / "runs")
    remedy = re.escape(f"run `safereason guard train --recipe mine.yaml --root {options.root}` first")
    with pytest.raises(InputError, match=rf"no trained guard of mine .* {remedy}$"):
        pipeline.run_pipeline(own, options)
    recipe = recipes.load(shipped).model_copy(update={"name": "mine"})
    for work in (pipeline.data.build_data, pipeline.guard.train_guard):
        run = work(recipe, options).run
    assert pipeline.run_pipeline(own, options).metrics["runs"]["guard mine"] == str(run)


def test_a_guards_recipe_is_trained_and_measured_model_by_model(shipped, tmp_path):
    recipe = recipes.load(shipped)
    metrics = pipeline.run_pipeline(recipe, Options(root=tmp_path / "runs")).metrics
    assert list(metrics["runs"]) == ["data", "guard sft", "eval guard of base", "eval guard of guard sft"]
    assert list(metrics["changes"]) == ["base", "guard sft"]
    for figures in metrics["changes"].values():
        assert [f["name"] for f in figures] == ["f1", "f1_always_unsafe", "unparsed"]
        assert figures[2]["value"] == 0.0
    assert metrics["changes"]["base"] == metrics["changes"]["guard sft"]  # its steps were too small to be seen
    models = [
        read_json(Path(metrics["runs"][f"eval guard of {name}"]) / "metrics.json")["model"]
        for name in ("base", "guard sft")
    ]
    assert models[0] == recipe.model
    assert models[1].startswith("guard/sft/little-guard/")
