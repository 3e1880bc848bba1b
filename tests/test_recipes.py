"""Every shipped recipe, and the papers' figures in those that reproduce a paper."""

import re
from pathlib import Path

import pytest

from safereason.recipe.load import leaves, load, shipped, to_yaml
from safereason.recipe.provenance import sources, validate

NAMES = [path.stem for path in shipped()]

TARS = {
    "seed": 0,
    "data.mix": "tars",
    "data.prompts": 2000,
    "data.harmful_ratio": 0.5,
    "data.ambiguous_ratio": 0.5,
    "data.harmful": [
        {"source": "wildjailbreak", "prompts": 800, "skip": 400},
        {"source": "rainbow", "prompts": 800, "skip": 0},
        {"source": "aegis2", "prompts": 400, "skip": 300},
    ],
    "data.harmless": [{"source": "ultrafeedback", "prompts": 2000, "skip": 0}],
    "data.ambiguous": [{"source": "or-bench", "prompts": 2000, "skip": 0}],
    "data.traces": [
        {"source": "wildjailbreak", "prompts": 400, "skip": 0},
        {"source": "aegis2", "prompts": 300, "skip": 0},
        {"source": "safeedit", "prompts": 300, "skip": 0},
    ],
    "data.traces_per_prompt": 4,
    "data.max_prompt_chars": 999,  # under 1000
    "sft.epochs": 3,
    "sft.learning_rate": 3e-5,
    "sft.batch_size": 16,
    "rl.algorithm": "grpo",
    "rl.epochs": 3,
    "rl.learning_rate": 1e-6,
    "rl.lr_schedule": "constant",
    "rl.warmup_ratio": 0,
    "rl.prompts_per_step": 32,
    "rl.rollouts_per_prompt": 8,
    "rl.kl_coef": 1e-3,
    "rl.clip": 0.2,
    "rl.dual_clip": 3.0,
    "rl.entropy_coef": 0.001,
    "rl.advantage_epsilon": 1e-6,
    "rl.drop_uniform_groups": False,
    "rl.weight_decay": 0.01,
    "rl.max_grad_norm": 1.0,
    "rl.max_prompt_tokens": 512,
    "rl.sampling.temperature": 0.6,
    "rl.sampling.top_p": 1.0,
    "rl.sampling.top_k": 0,
    "rl.sampling.max_new_tokens": 4096,
    "rl.precision": "bf16",
    "rl.reward.name": "tars",
    "rl.reward.safety": "moderation",
    "rl.reward.task": "Ray2333/GRM-llama3-8B-distill",
    "rl.reward.require_format": True,
    "eval.sampling.temperature": 0,
    "eval.sampling.max_new_tokens": 512,
    "eval.prefix": "<think>\n",
    "eval.behaviors": "harmbench",
    "eval.attacks": ["gcg", "autodan", "pair", "pap"],
    "eval.harm_judge": "harmbench",
    "eval.benign": "xstest",
    "eval.refusal_judge": "strongreject",
}
RSAFE = {
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "seed": 50,
    "data.mix": "rsafe",
    "data.rows_per_label": 1000,
    "data.sources": ["toxicchat", "aegis2", "pku-saferlhf", "beavertails"],
    "data.safe_only": [{"source": "or-bench-hard", "prompts": 1000, "skip": 0}],
    "data.unsafe_only": [{"source": "or-bench-toxic", "prompts": 655, "skip": 0}],
    "data.max_prompt_task_tokens": 1024,
    "data.max_response_task_tokens": 2048,
    "data.without_categories": [],
    "guard.train.algorithm": "grpo",
    "guard.train.epochs": 3,
    "guard.train.learning_rate": 1e-7,
    "guard.train.prompts_per_step": 32,
    "guard.train.rollouts_per_prompt": 4,
    "guard.train.kl_coef": 0,
    "guard.train.clip": 0.2,
    "guard.train.entropy_coef": 0.001,
    "guard.train.max_prompt_tokens": 2048,
    "guard.train.sampling.temperature": 0.7,
    "guard.train.sampling.top_p": 0.8,
    "guard.train.sampling.repetition_penalty": 1.05,
    "guard.train.sampling.max_new_tokens": 512,
    "guard.train.reward.name": "rsafe",
    "guard.train.reward.accuracy_weight": 0.9,
    "guard.train.reward.format_weight": 0.1,
    "guard.train.reward.require_reasoning": True,
    "guard.sampling.temperature": 0.7,
    "guard.sampling.top_p": 0.8,
    "guard.sampling.repetition_penalty": 1.05,
    "guard.sampling.max_new_tokens": 4096,
}
FIGURES = {
    "tars-1.5b": {**TARS, "model": "Qwen/Qwen2.5-1.5B-Instruct"},
    "tars-7b": {**TARS, "model": "Qwen/Qwen2.5-7B-Instruct"},
    "rsafe": RSAFE,
}
CASES = [(name, key, value) for name, figures in FIGURES.items() for key, value in figures.items()]


@pytest.mark.parametrize(("name", "key", "value"), CASES)
def test_the_papers_figures_stand_in_the_recipe(name, key, value):
    assert dict(leaves(load(name)))[key] == value


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_is_sound(name, tmp_path: Path):
    recipe = load(name)
    assert validate(recipe) == []
    copy = tmp_path / f"{name}.yaml"
    copy.write_text(to_yaml(recipe), encoding="utf-8")
    assert load(str(copy)) == recipe
    assert sources(load(str(copy))).keys() == sources(recipe).keys()


@pytest.mark.parametrize("path", shipped(), ids=NAMES)
def test_a_shipped_recipe_says_what_it_needs_how_it_is_run_and_what_to_expect(path):
    header = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
    assert header[0].endswith(".")
    for part in ("Needs:", "Run:", "Expect"):
        assert any(line.startswith(part) for line in header)
    commands = [line for line in header if line.startswith("safereason ")]
    assert any("=" in command for command in commands)
    for command in commands:
        words = command.partition("  ")[0].split()
        assert words[words.index("--recipe") + 1] == path.stem
        assert load(path.stem, [word for word in words if "=" in word])


@pytest.mark.parametrize("name", FIGURES)
def test_each_source_in_a_papers_recipe_begins_with_one_of_four_words(name):
    recipe = load(name)
    assert recipe.paper
    assert {re.split("[,;:]", text)[0] for text in recipe.provenance.values()} <= {"paper", "code", "summary", "ours"}


def test_the_7b_model_differs_from_the_small_one_only_where_it_says_so():
    small, large = dict(leaves(load("tars-1.5b"))), dict(leaves(load("tars-7b")))
    assert {key for key in small if small[key] != large[key]} == {
        "model",
        "sft.micro_batch_size",
        "rl.micro_batch_size",
    }


@pytest.mark.parametrize("name", ["tars-smoke", "rsafe-smoke"])
def test_the_smoke_recipes_run_on_a_bare_cpu(name):
    values = dict(leaves(load(name)))
    assert values["model"] == "embedded/smollm2-135m"
    assert {value for key, value in values.items() if key.endswith("precision")} == {"fp32"}
    assert {value for key, value in values.items() if key.endswith(".rollouts")} == {"engine"}
    pools = [rows for key, rows in values.items() if key.startswith("data.") and isinstance(rows, list)]
    named = {row["source"] if isinstance(row, dict) else row for rows in pools for row in rows}
    assert named <= {"sample", "sample-brief"}
