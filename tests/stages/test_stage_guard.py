"""The guard stage on the micro model: SFT, then RL, and a guard that is asked as it was trained."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import micro
import micro_guard
import pytest
import torch

from safereason.data.example import read_examples
from safereason.engines.open import load_model
from safereason.errors import InputError
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard.base import Question
from safereason.guard.open import open_guard
from safereason.guard.prompt import VERDICT_ONLY
from safereason.recipe.load import load
from safereason.recipe.schema import Recipe
from safereason.rewards.rsafe import VerdictReward
from safereason.runs.directory import read_manifest
from safereason.runs.manifest import sha256
from safereason.runs.records import read_json, read_records
from safereason.stages import data, guard
from safereason.stages.base import Options, run_model
from safereason.text.chat import prompt_ids
from safereason.training import sft

RECIPE = """
model: {model}
seed: 5
data:
  mix: rsafe
  rows_per_label: 6
  sources: [{source}]
  traces: [{{source: {source}, prompts: 8}}]
  validation_rows_per_label: 2
guard:
  policy: {policy}
  prompt_template: prompt-brief
  response_template: response-brief
  sft: {{epochs: 1, learning_rate: 1.0e-3, batch_size: 4, micro_batch_size: 4, max_tokens: 512, precision: fp32}}
  train:
    epochs: 1
    max_steps: 5
    learning_rate: 1.0e-3
    prompts_per_step: 2
    rollouts_per_prompt: 2
    micro_batch_size: 4
    kl_coef: 0.0
    entropy_coef: 0.001
    max_prompt_tokens: 512
    sampling: {{temperature: 0.7, top_p: 0.8, repetition_penalty: 1.05, max_new_tokens: 8}}
    reward: {{name: rsafe}}
    precision: fp32
    save_steps: 2
  validation: {{every_steps: 2}}
  sampling: {{temperature: 0.0, max_new_tokens: 8}}
"""
BARE = ("guard.reasoning=false", "guard.prompt_template=null", "guard.response_template=null", "data.traces=[]")
"""Overrides for a guard that does not reason."""
DECIDES = (
    *BARE,
    "guard.sft=null",
    "guard.train.max_prompt_tokens=2048",
    "guard.train.sampling.max_new_tokens=20",
    "guard.train.sampling.temperature=1.0",
    "guard.train.sampling.top_p=1.0",
    "guard.train.sampling.repetition_penalty=1.0",
)
"""Overrides for the model that writes verdicts by itself."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With rows of both labels, some about a response, and a policy."""
    folder = tmp_path_factory.mktemp("guard")
    rows = [
        {
            "id": f"mine/{label}-{i}",
            "prompt": f"{label} thing {i}?",
            "kind": "harmless",
            "source": "mine",
            "label": label,
            "response": "So it is done." if i % 4 == 3 else None,
            "reasoning": "It is as it is.",
            "answer": rf"\boxed{{{label}}}",
        }
        for label in ("safe", "unsafe")
        for i in range(10)
    ]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rules.yaml").write_text(micro_guard.POLICY)
    return folder


def recipe_of(folder: Path, model: Path, *overrides: str, name: str = "tiny") -> Recipe:
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.format(model=model, source=folder / "mine.jsonl", policy=folder / "rules.yaml"))
    return load(str(path), overrides)


@pytest.fixture(scope="module")
def recipe(folder, micro_model) -> Recipe:
    return recipe_of(folder, micro_model)


@pytest.fixture(scope="module")
def root(recipe, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    data.build_data(recipe, Options(root=root))
    return root


@pytest.fixture(scope="module")
def trained(recipe, root):
    return guard.train_guard(recipe, Options(root=root))


def only(root: Path, stage: str) -> Path:
    (run,) = (root / stage).glob("tiny--*")
    return run


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def test_sft_comes_first_and_rl_goes_on_from_it(trained, root, folder):
    warm = only(root, "guard/sft")
    assert trained.run == only(root, "guard/rl")
    for run, stage in ((warm, "guard/sft"), (trained.run, "guard/rl")):
        manifest = read_manifest(run)
        assert (manifest["status"], manifest["stage"]) == ("finished", stage)
        assert read_json(run / "metrics.json")["warnings" if stage == "guard/rl" else "rows"] is not None
    (built,) = root.glob("data/*")
    assert read_manifest(warm)["inputs"] == {str(built / "traces.parquet"): sha256(built / "traces.parquet")}
    assert read_manifest(trained.run)["inputs"] == {str(built / "train.parquet"): sha256(built / "train.parquet")}
    assert read_manifest(trained.run)["identity"]["model"].startswith("guard/sft/tiny/")
    assert {key: value for key, value in read_json(warm / "metrics.json").items() if key != "mean_loss"} == {
        "steps": 2,
        "rows": 8,
        "dropped_too_long": 0,
        "dropped_empty_reasoning": 0,
        "dropped_empty": 0,
    }


def test_both_models_carry_how_they_were_asked(trained, root, recipe):
    expected = guard_prompts.of_section(recipe.guard)
    assert [category.name for category in expected.policy.categories] == ["Rudeness", "Spoilers"]
    assert "Reason in <think> </think>" in expected.templates.prompt_task
    for run in (only(root, "guard/sft"), trained.run):
        assert guard_prompts.of_model(str(run / "model")) == expected
        opened = open_guard(run_model(run))
        assert (opened.guard_prompt, opened.guard_prompt.sampling) == (expected, recipe.guard.sampling)
    (verdict,) = opened.classify([Question("Is this rude?")])
    assert verdict.tokens <= 8
    assert not verdict.failed


def test_metrics_say_what_was_trained_on_and_kept(trained):
    assert trained.metrics == read_json(trained.run / "metrics.json")
    kept = trained.metrics["kept"]
    warning = {"step": 5, "sign": "unparsed", "what": "100% of the verdicts cannot be read"}
    assert trained.metrics == {"steps": 5, "rows": 12, "dropped_too_long": 0, "kept": kept, "warnings": [warning]}
    assert kept == {
        "model": "best",
        "step": 0,
        "n": 4,
        "f1": 0.0,
        "unparsed": 1.0,
        "says_unsafe": 0.0,
        "mean_tokens": kept["mean_tokens"],
    }


def test_a_record_a_step_a_rollout_and_a_look(trained, root):
    steps = list(read_records(trained.run / "metrics.jsonl"))
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5]
    assert {"reward", "accuracy", "format", "unparsed", "unscored", "entropy"} <= steps[0].keys()
    assert "kl" not in steps[0]
    assert [look["step"] for look in read_records(trained.run / "validation.jsonl")] == [0, 2, 4, 5]
    rollouts = list(read_records(trained.run / "rollouts.jsonl"))
    assert len(rollouts) == 20
    assert {r["label"] for r in rollouts} == {"safe", "unsafe"}
    assert all(r["prompt"].startswith(f"{r['label']} thing ") for r in rollouts)
    assert {r.get("response") for r in rollouts} == {None, "So it is done."}
    assert all(first["id"] == second["id"] for first, second in zip(rollouts[::2], rollouts[1::2], strict=True))
    pairs = [{rollouts[i]["label"], rollouts[i + 2]["label"]} for i in range(0, 20, 4)]
    assert pairs == [{"safe", "unsafe"}] * 5  # every step sees both labels


def test_the_model_before_any_step_is_kept_where_no_look_was_better(trained, root):
    assert read_json(trained.run / "model" / "validation.json")["step"] == 0
    assert weights(trained.run) == weights(only(root, "guard/sft"))
    assert not (trained.run / "best").exists()


def test_a_finished_sft_run_is_taken_as_it_is(trained, root, recipe, micro_model, folder):
    warm = only(root, "guard/sft")
    before = (warm / "manifest.json").read_bytes()
    other = recipe_of(folder, micro_model, "guard.train.max_steps=1", "guard.validation=null")
    run = guard.train_guard(other, Options(root=root)).run
    assert run not in (warm, trained.run)
    assert (warm / "manifest.json").read_bytes() == before
    assert [path.name for path in (root / "guard/sft").iterdir()] == [warm.name]
    assert read_manifest(run)["identity"]["model"] == read_manifest(trained.run)["identity"]["model"]
    assert read_json(run / "metrics.json")["kept"] == {"model": "last"}
    assert not (run / "validation.jsonl").read_bytes()
    shutil.rmtree(run)


def test_a_finished_guard_is_returned_as_it_is(trained, root, recipe):
    again = guard.train_guard(recipe, Options(root=root, on_existing="resume"))
    assert again.run == trained.run
    assert guard.train_guard(recipe, Options(root=root)).run == trained.run


def test_another_policy_is_another_guard(trained, root, recipe, folder, micro_model):
    other = recipe_of(folder, micro_model, "guard.policy=default-names")
    with pytest.raises(InputError, match=r"the recipe changed since \(guard.policy.categories"):
        guard.train_guard_rl(other, Options(root=root, out=trained.run, on_existing="resume"))


def prompt_builder_of(recipe: Recipe):
    """What the guard is asked about a row."""
    guard_prompt = guard_prompts.of_section(recipe.guard)
    return lambda e: guard_prompt.conversation(Question(e.prompt, e.response))


def cut(lengths: list[int]) -> tuple[int, int]:
    """The middle length, and how many are above it: some, and not all."""
    limit = sorted(lengths)[len(lengths) // 2 - 1]
    longer = sum(length > limit for length in lengths)
    assert 0 < longer < len(lengths)
    return limit, longer


def test_long_prompts_are_left_out_and_counted(recipe, folder, micro_model, root, tmp_path):
    (built,) = root.glob("data/*")
    prompt_builder, tokenizer = prompt_builder_of(recipe), micro.tokenizer()
    limit, longer = cut([len(prompt_ids(tokenizer, prompt_builder(e))) for e in read_examples(built / "train.parquet")])
    changes = ("guard.train.max_steps=1", "guard.validation=null", f"guard.train.max_prompt_tokens={limit}")
    metrics = guard.train_guard_rl(
        recipe_of(folder, micro_model, *changes), Options(root=root, out=tmp_path / "short")
    ).metrics
    assert (metrics["rows"], metrics["dropped_too_long"]) == (12 - longer, longer)


def test_long_traces_are_left_out_and_counted(recipe, folder, micro_model, root, tmp_path):
    (built,) = root.glob("data/*")
    rows = sft.tokenize(
        micro.tokenizer(), read_examples(built / "traces.parquet"), 1 << 20, prompt_builder=prompt_builder_of(recipe)
    ).rows
    limit, longer = cut([len(row["input_ids"]) for row in rows])
    changes = (
        "guard.sft.batch_size=1",
        "guard.sft.micro_batch_size=1",
        "guard.sft.max_steps=1",
        f"guard.sft.max_tokens={limit}",
    )
    metrics = guard.train_guard_sft(
        recipe_of(folder, micro_model, *changes), Options(root=root, out=tmp_path / "short")
    ).metrics
    assert (metrics["rows"], metrics["dropped_too_long"]) == (8 - longer, longer)


def test_without_reasoning_verdicts_alone_are_trained_on(folder, micro_model, tmp_path, monkeypatch):
    changes = (*BARE, "guard.train=null", "guard.validation=null", "guard.sft.max_tokens=1536")
    recipe, options = recipe_of(folder, micro_model, *changes), Options(root=tmp_path)
    data.build_data(recipe, options)
    tokenized = []
    tokenize = sft.tokenize
    monkeypatch.setattr(sft, "tokenize", lambda *a, **named: tokenized.append(tokenize(*a, **named)) or tokenized[-1])
    result = guard.train_guard(recipe, options)
    assert result.run == only(tmp_path, "guard/sft")
    assert result.metrics["rows"] == 12
    tokenizer = micro.tokenizer()
    texts = [tokenizer.decode(row["input_ids"][row["completion_mask"].index(1) :]) for row in tokenized[0].rows]
    assert sorted(texts) == [r"\boxed{safe}<|im_end|>"] * 6 + [r"\boxed{unsafe}<|im_end|>"] * 6
    assert all(VERDICT_ONLY in tokenizer.decode(row["input_ids"]) for row in tokenized[0].rows)
    guard_prompt = guard_prompts.of_model(str(result.run / "model"))
    assert (guard_prompt.reasoning, guard_prompt.templates.order) == (False, VERDICT_ONLY)


@pytest.fixture(scope="module")
def decider(tmp_path_factory) -> Path:
    return micro_guard.save_guard(tmp_path_factory.mktemp("decider"))


@pytest.fixture(scope="module")
def broken(folder, decider, tmp_path_factory):
    """A guard that says something at first, trained so hard that it no longer does: best kept, and last kept."""
    options = Options(root=tmp_path_factory.mktemp("broken"))
    runs = {}
    for keep in ("true", "false"):
        recipe = recipe_of(
            folder, decider, *DECIDES, "guard.train.learning_rate=30.0", f"guard.validation.keep_best={keep}"
        )
        data.build_data(recipe, replace(options, on_existing="resume"))
        runs[keep] = guard.train_guard(recipe, options)
    return runs


def test_the_better_model_of_an_earlier_step_is_kept(broken, decider):
    looks = list(read_records(broken["true"].run / "validation.jsonl"))
    assert looks[0]["f1"] > 0.3 > looks[-1]["f1"]
    assert broken["true"].metrics["kept"] == {"model": "best", **looks[0]}
    kept = load_model(str(broken["true"].run / "model")).state_dict()
    start = load_model(str(decider)).state_dict()
    assert all(torch.equal(kept[name], start[name]) for name in start)
    assert guard_prompts.of_model(str(broken["true"].run / "model")).reasoning is False


def test_the_last_model_is_kept_where_the_recipe_says_so(broken, decider):
    assert broken["false"].metrics["kept"] == {"model": "last"}
    assert weights(broken["false"].run) != weights(broken["true"].run)
    assert not (broken["false"].run / "model" / "validation.json").exists()
    looks = [list(read_records(run.run / "validation.jsonl")) for run in broken.values()]
    assert looks[0] == looks[1]
    assert guard_prompts.of_model(str(broken["false"].run / "model")).reasoning is False


def test_being_watched_changes_no_rollout(broken, folder, decider, tmp_path):
    recipe = recipe_of(folder, decider, *DECIDES, "guard.train.learning_rate=30.0", "guard.validation=null")
    data.build_data(recipe, Options(root=tmp_path))
    alone = guard.train_guard(recipe, Options(root=tmp_path)).run
    assert list(read_records(alone / "rollouts.jsonl")) == list(read_records(broken["false"].run / "rollouts.jsonl"))
    assert weights(alone) == weights(broken["false"].run)


class Killed(Exception):
    """In place of a kill: nothing after it is written, but that the run failed."""


def die_at(monkeypatch, call: int) -> None:
    """Dies as the rewards of this step are asked for."""
    calls, whole = [], VerdictReward.score

    def score(self, rows):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return whole(self, rows)

    monkeypatch.setattr(VerdictReward, "score", score)


def steps(run: Path) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "step_time"} for record in read_records(run / "metrics.jsonl")]


def assert_same(result: Path, expected: Path) -> None:
    assert steps(result) == steps(expected)
    for name in ("rollouts", "validation"):
        assert list(read_records(result / f"{name}.jsonl")) == list(read_records(expected / f"{name}.jsonl"))
    assert read_json(result / "metrics.json") == read_json(expected / "metrics.json")
    names = sorted(path.name for path in (expected / "model").iterdir())
    assert sorted(path.name for path in (result / "model").iterdir()) == names
    for name in names:
        assert (result / "model" / name).read_bytes() == (expected / "model" / name).read_bytes()
    assert not list(result.glob("*best*")) + list(result.glob(".best*"))


@pytest.mark.parametrize("step", [2, 4], ids=["before a checkpoint", "after one"])
@pytest.mark.parametrize("keep", ["true", "false"])
def test_a_killed_run_ends_as_one_that_was_not(broken, folder, decider, tmp_path, monkeypatch, step, keep):
    recipe = recipe_of(
        folder, decider, *DECIDES, "guard.train.learning_rate=30.0", f"guard.validation.keep_best={keep}"
    )
    data.build_data(recipe, Options(root=tmp_path))
    with monkeypatch.context() as patched:
        die_at(patched, step)
        with pytest.raises(Killed):
            guard.train_guard(recipe, Options(root=tmp_path))
    run = only(tmp_path, "guard/rl")
    assert (run / "checkpoints" / "checkpoint-2").exists() == (step == 4)
    assert not (run / "model").exists()
    guard.train_guard(recipe, Options(root=tmp_path, on_existing="resume"))
    assert_same(run, broken[keep].run)


@pytest.mark.parametrize("changes", [[], ["guard.train.save_steps=3"]], ids=["at the last step", "steps before"])
def test_a_kill_after_the_best_was_put_in_place_loses_it_not(folder, decider, tmp_path, monkeypatch, changes):
    recipe = recipe_of(folder, decider, *DECIDES, "guard.train.learning_rate=30.0", "guard.train.max_steps=4", *changes)
    whole = Options(root=tmp_path / "whole")
    data.build_data(recipe, whole)
    expected = guard.train_guard(recipe, whole).run
    shutil.copytree(tmp_path / "whole" / "data", tmp_path / "killed" / "data")
    with monkeypatch.context() as patched:
        patched.setattr(guard_prompts.GuardPrompt, "save", lambda self, folder: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            guard.train_guard(recipe, Options(root=tmp_path / "killed"))
    run = only(tmp_path / "killed", "guard/rl")
    assert (run / "model" / "validation.json").exists()
    guard.train_guard(recipe, Options(root=tmp_path / "killed", on_existing="resume"))
    assert_same(run, expected)
    assert read_json(run / "metrics.json")["kept"]["model"] == "best"


def test_adapters_are_merged_into_the_best_model_too(folder, decider, tmp_path):
    recipe = recipe_of(folder, decider, *DECIDES, "guard.train.lora={rank: 2}", "guard.train.max_steps=2")
    data.build_data(recipe, Options(root=tmp_path))
    run = guard.train_guard(recipe, Options(root=tmp_path)).run
    assert not list(run.glob("model/adapter*"))
    assert load_model(str(run / "model")).state_dict().keys() == load_model(str(decider)).state_dict().keys()
    assert read_json(run / "metrics.json")["kept"]["f1"] > 0.3
    (verdict,) = open_guard(run_model(run)).classify([Question("Is this rude?")])
    assert verdict.text.startswith(r"\boxed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("data.validation_rows_per_label=0",),
            r"guard.validation: the data holds no rows for it; set data.validation",
        ),
        (("guard.train.micro_batch_size=3",), r"guard.train.micro_batch_size: 3 does not divide the 4 sequences"),
        (
            ("guard.train.max_prompt_tokens=5",),
            r"^guard.train.max_prompt_tokens: 12 of 12 rows are longer than 5 tokens; raise it",
        ),
        (
            ("guard.train.extra={beta: 1.0}",),
            r"guard.train.extra.beta: has no meaning here; extra holds arguments of vLLM",
        ),
        (("guard.train.rollouts=vllm-colocate",), r"guard.train.rollouts: vllm-colocate needs vLLM"),
        (("guard.train=null", "guard.validation=null"), r"recipe tiny: its guard has no train section"),
    ],
)
def test_what_cannot_be_trained_is_said_and_no_model_is_left(
    folder, micro_model, tmp_path, monkeypatch, changes, message
):
    monkeypatch.setattr("safereason.engines.vllm.is_installed", lambda: False)
    recipe = recipe_of(folder, micro_model, *changes)
    data.build_data(recipe, Options(root=tmp_path))
    with pytest.raises(InputError, match=message):
        guard.train_guard_rl(recipe, Options(root=tmp_path))
    assert not list(tmp_path.rglob("*.safetensors"))
    if "data.validation_rows_per_label=0" in changes:
        assert not (tmp_path / "guard").exists()


def test_without_data_the_command_that_builds_it_is_named(recipe, tmp_path):
    remedy = re.escape(f"run `safereason data build --recipe {recipe.reference} --root {tmp_path}` first")
    assert recipe.reference.endswith("/tiny.yaml")
    with pytest.raises(InputError, match=rf"no finished data run of tiny .* {remedy}$"):
        guard.train_guard(recipe, Options(root=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_without_a_guard_trains_none(recipe, tmp_path):
    other = recipe.model_copy(update={"guard": None})
    for work in (guard.train_guard, guard.guard_outline):
        with pytest.raises(InputError, match="recipe tiny: it has no guard section"):
            work(other, Options(root=tmp_path))


def test_the_plan_says_what_is_there_and_what_trl_is_given(recipe, root, trained, folder, tmp_path):
    plan = guard.guard_outline(recipe, Options(root=root))
    (built,) = root.glob("data/*")
    assert plan["data"] == {"built": str(built), "rows": 12, "validation": 4, "traces": 8}
    assert plan["sources"] == {str(folder / "mine.jsonl"): "10 safe, 10 unsafe"}
    assert (plan["policy"], plan["reasoning"]) == ("rules, 2 categories", True)
    assert (plan["sft"]["steps"], plan["rl"]["steps"], plan["rl"]["sequences"]) == (2, 5, 20)
    assert plan["rl"]["tokens generated at most"] == 8 * plan["rl"]["sequences"]
    assert plan["rl"]["reference model"] == "none"
    unbuilt = guard.guard_outline(recipe, Options(root=tmp_path))
    assert unbuilt["data"] == {"built": False, "rows": 12, "validation": 4, "traces": 8}
    assert list(tmp_path.iterdir()) == []


def test_the_plan_counts_as_traces_what_sft_will_have(folder, micro_model, tmp_path):
    verdicts = recipe_of(folder, micro_model, *BARE)
    assert guard.guard_outline(verdicts, Options(root=tmp_path))["data"]["traces"] == 12
    alone = recipe_of(folder, micro_model, "guard.sft=null", "data.traces=[]")
    assert guard.guard_outline(alone, Options(root=tmp_path))["data"]["traces"] == 0
