"""The rl stage with DPO on the micro model: responses, rewards, pairs, and the model that they make."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from safereason.data.example import read_examples
from safereason.engines.open import load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.recipe.load import load
from safereason.recipe.schema import Recipe
from safereason.rewards import RewardParts, RewardRow
from safereason.runs.directory import read_manifest
from safereason.runs.records import keep_records, line_of, read_json, read_records
from safereason.stages import data, rl, sft
from safereason.stages.base import Options
from safereason.training.pairs import best_with_worst

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


def recipe_of(model, classifier, **section) -> Recipe:
    reward = {"name": "tars", "safety": f"reward-model:{classifier}", "task": str(classifier), "require_format": False}
    rl_section = {
        "algorithm": "dpo",
        "epochs": 1,
        "learning_rate": 1e-3,
        "rollouts_per_prompt": 4,
        "batch_size": 4,
        "micro_batch_size": 2,
        "beta": 0.1,
        "rpo_alpha": 1.0,
        "max_prompt_tokens": 256,
        "precision": "fp32",
        "sampling": {"max_new_tokens": 8},
        "reward": reward,
        **section,
    }
    return Recipe(name="tiny", model=str(model), data=TARS, sft=SFT, rl=rl_section)


@pytest.fixture(scope="module")
def root(micro_model, micro_classifier, tmp_path_factory):
    """A folder with built data and a finished sft run."""
    root = tmp_path_factory.mktemp("dpo")
    recipe = recipe_of(micro_model, micro_classifier)
    data.build_data(recipe, Options(root=root))
    sft.train_sft(recipe, Options(root=root))
    return root


@pytest.fixture(scope="module")
def trained(micro_model, micro_classifier, root):
    return rl.train_rl(recipe_of(micro_model, micro_classifier), Options(root=root))


def test_a_run_holds_responses_rewards_pairs_metrics_and_model(trained, root):
    assert trained.metrics == read_json(trained.run / "metrics.json")
    assert trained.metrics == {
        "steps": 4,
        "prompts": 8,
        "rollouts": 32,
        "unscored": 0,
        "pairs": 16,
        "prompts_without_pair": 0,
        "dropped_too_long": 0,
    }
    steps = list(read_records(trained.run / "metrics.jsonl"))
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    assert steps[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)  # the reference is the start
    assert {"loss", "rewards/accuracies", "logps/chosen", "logps/rejected"} <= steps[0].keys()
    assert read_manifest(trained.run)["identity"]["model"].startswith("sft/tiny/")
    (start,) = root.glob("sft/tiny--*")
    before, after = (load_file(run / "model/model.safetensors") for run in (start, trained.run))
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)


def test_pairs_are_ranked_by_the_rewards_of_each_prompts_responses(trained, root):
    examples = read_examples(data.built_data(_recipe_in(trained), Options(root=root)) / data.TRAIN)
    rollouts = {(record["id"], record["number"]): record for record in read_records(trained.run / "rollouts.jsonl")}
    assert rollouts.keys() == {(example.id, number) for example in examples for number in range(4)}
    expected = []
    for example in examples:
        rewards = [rollouts[example.id, number]["total"] for number in range(4)]
        for better, worse in best_with_worst(rewards):
            expected.append((example.id, better, worse))
    pairs = list(read_records(trained.run / "pairs.jsonl"))
    assert [(pair["id"], pair["chosen"]["number"], pair["rejected"]["number"]) for pair in pairs] == expected
    for pair in pairs:
        for side in ("chosen", "rejected"):
            rollout = rollouts[pair["id"], pair[side]["number"]]
            assert (pair[side]["text"], pair[side]["total"]) == (rollout["text"], rollout["total"])


def _recipe_in(trained) -> Recipe:
    return load(str(trained.run / "recipe.yaml")).model_copy(update={"name": "tiny"})


def test_a_responses_tokens_are_recorded_as_they_were_drawn(micro_model, trained):
    tokenizer = load_tokenizer(ModelSpec.parse(str(micro_model)))
    drawn = list(read_records(trained.run / "completions.jsonl"))
    assert all(tokenizer.decode(r["token_ids"], skip_special_tokens=True) == r["text"] for r in drawn)
    assert {len(r["token_ids"]) for r in drawn if r["finish_reason"] == "length"} <= {8}


class Stubborn:
    """A reward that cannot score every third row, and gives the responses of some prompts the same."""

    def score(self, rows: list[RewardRow]) -> list[RewardParts]:
        totals = [None if i % 3 == 0 else 0.5 if row.kind == "harmful" else i / 100 for i, row in enumerate(rows)]
        return [RewardParts(total, {}, "no answer" if total is None else None) for total in totals]


def test_what_is_unscored_or_equal_makes_no_pair_and_is_counted(
    micro_model, micro_classifier, root, tmp_path, monkeypatch
):
    monkeypatch.setattr(rl, "open_reward", lambda section: Stubborn())
    recipe = recipe_of(micro_model, micro_classifier, batch_size=2)
    result = rl.train_rl(recipe, Options(root=root, out=tmp_path / "few"))
    rollouts = list(read_records(result.run / "rollouts.jsonl"))
    assert result.metrics["unscored"] == sum(record["total"] is None for record in rollouts) == 11
    assert result.metrics["prompts_without_pair"] == 4
    pairs = list(read_records(result.run / "pairs.jsonl"))
    assert len(pairs) == result.metrics["pairs"] > 0
    assert "harmful" not in {pair["kind"] for pair in pairs}


def test_too_few_pairs_say_so_and_keep_what_was_drawn(micro_model, micro_classifier, root, tmp_path, monkeypatch):
    monkeypatch.setattr(rl, "open_reward", lambda section: Stubborn())
    recipe, options = recipe_of(micro_model, micro_classifier, batch_size=12), Options(root=root, out=tmp_path / "run")
    with pytest.raises(InputError, match=r"rl.batch_size: \d+ rows do not fill one batch of 12"):
        rl.train_rl(recipe, options)
    assert len(list(read_records(options.out / "completions.jsonl"))) == 32


def test_a_resumed_run_asks_again_for_what_failed_unless_its_pairs_are_made(
    micro_model, micro_classifier, trained, root, tmp_path
):
    def interrupted(folder: Path, *, pairs: bool, failed: bool) -> Path:
        shutil.copytree(trained.run, folder)
        shutil.rmtree(folder / "model")
        for name in ("metrics.json", "metrics.jsonl", *([] if pairs else ["pairs.jsonl"])):
            (folder / name).unlink()
        manifest = (folder / "manifest.json").read_text().replace('"finished"', '"failed"', 1)
        (folder / "manifest.json").write_text(manifest)
        lost = next(read_records(folder / "rollouts.jsonl"))
        keep_records(folder / "rollouts.jsonl", lambda record: record != lost)
        with (folder / "rollouts.jsonl").open("ab") as file:
            file.write(line_of({**lost, "total": None, "failed": failed}))
        return folder

    recipe = recipe_of(micro_model, micro_classifier)
    unscored = {}
    for pairs, failed in ((False, True), (False, False), (True, True)):
        folder = interrupted(tmp_path / f"{pairs}-{failed}", pairs=pairs, failed=failed)
        unscored[pairs, failed] = rl.train_rl(recipe, Options(root=root, out=folder, on_existing="resume")).metrics[
            "unscored"
        ]
    assert unscored == {(False, True): 0, (False, False): 1, (True, True): 1}


def test_adapters_are_trained_and_merged(micro_model, micro_classifier, root, tmp_path):
    recipe = recipe_of(micro_model, micro_classifier, lora={"rank": 2}, max_steps=1)
    run = rl.train_rl(recipe, Options(root=root, out=tmp_path / "lora")).run
    assert (run / "model" / "model.safetensors").is_file()
    assert not list(run.glob("model/adapter*"))


def test_long_prompts_are_left_out_and_counted(micro_model, micro_classifier, root, tmp_path):
    recipe = recipe_of(micro_model, micro_classifier, max_prompt_tokens=100, max_steps=1, batch_size=2)
    metrics = rl.train_rl(recipe, Options(root=root, out=tmp_path / "short")).metrics
    assert metrics["dropped_too_long"] > 0
    assert metrics["prompts"] + metrics["dropped_too_long"] == 8


def test_the_plan_says_how_much_is_drawn_and_what_trl_is_given(micro_model, micro_classifier, root):
    plan = rl.rl_outline(recipe_of(micro_model, micro_classifier), Options(root=root))
    assert (plan["rollouts"], plan["pairs at most"], plan["steps at most"]) == (32, 16, 4)
    assert plan["DPOConfig"]["loss_weights"] == [1.0, 1.0]
