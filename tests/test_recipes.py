"""Every shipped recipe, and the papers' figures in those that reproduce a paper."""

import re
from pathlib import Path
from typing import Any

import pytest

from safereason.engines.spec import ModelSpec
from safereason.guard import policy as policies
from safereason.recipe.load import leaves, load, to_yaml
from safereason.recipe.named import shipped
from safereason.recipe.provenance import sources, validate
from safereason.rewards import judges_of
from safereason.stages.guard_eval_plan import plan_guard_eval

NAMES = [path.stem for path in shipped()]


def share(
    source: str, prompts: int, skip: int = 0, categories: tuple[str, ...] = (), kind: str | None = None
) -> dict[str, Any]:
    return {"source": source, "prompts": prompts, "skip": skip, "categories": list(categories), "kind": kind}


TARS = {
    "seed": 0,
    "data.mix": "tars",
    "data.prompts": 2000,
    "data.harmful_ratio": 0.5,
    "data.ambiguous_ratio": 0.5,
    "data.harmful": [
        share("wildjailbreak", 800, 400),
        share("rainbow", 800),
        share("aegis2", 400, 300),
    ],
    "data.harmless": [share("ultrafeedback", 2000)],
    "data.ambiguous": [share("or-bench", 2000)],
    "data.traces": [
        share("wildjailbreak", 400),
        share("aegis2", 300, kind="harmful"),
        share("safeedit", 300),
    ],
    "data.traces_per_prompt": 4,
    "data.teacher.samples": 4,
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
    "eval.sampling.max_new_tokens": 4608,
    "eval.prefix": "<think>\n",
    "eval.behaviors": "harmbench",
    "eval.attacks": ["gcg", "autodan", "pair", "pap"],
    "eval.harm_judge": "harmbench",
    "eval.benign": "xstest",
    "eval.refusal_judge": "strongreject",
    "eval.also": ["wildchat"],
}
RSAFE = {
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "seed": 50,
    "data.mix": "rsafe",
    "data.rows_per_label": 1000,
    "data.sources": ["toxicchat", "aegis2", "pku-saferlhf", "beavertails"],
    "data.safe_only": [share("or-bench-hard", 1000)],
    "data.unsafe_only": [share("or-bench-toxic", 655)],
    "data.max_prompt_task_tokens": 1024,
    "data.max_response_task_tokens": 2048,
    "data.without_categories": [],
    "data.traces": [],
    "guard.policy": "default",
    "guard.reasoning": True,
    "guard.prompt_template": None,
    "guard.response_template": None,
    "guard.sft": None,
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
    "guard.validation.keep_best": True,
    "guard.sampling.temperature": 0.7,
    "guard.sampling.top_p": 0.8,
    "guard.sampling.repetition_penalty": 1.05,
    "guard.sampling.max_new_tokens": 4096,
}
COLD_START = {"guard.sft.epochs": 3, "guard.sft.learning_rate": 1e-6}
JUST_THREE = (
    "sensitive_information_organization_government",
    "social_stereotypes_and_unfair_discrimination",
    "cyberattack",
)
MISINFORMATION = (
    "disseminating_false_or_misleading_information_encouraging_disinformation_campaigns",
    "causing_material_harm_by_disseminating_misinformation",
)
WITH_SFT = {key: value for key, value in RSAFE.items() if key != "guard.sft"} | COLD_START
SFT_ALONE = {key: value for key, value in WITH_SFT.items() if not key.startswith(("guard.train.", "guard.validation."))}
FIGURES = {
    "tars-1.5b": {**TARS, "model": "Qwen/Qwen2.5-1.5B-Instruct"},
    "tars-7b": {**TARS, "model": "Qwen/Qwen2.5-7B-Instruct"},
    "rsafe": RSAFE,
    "rsafe-noreason": {**RSAFE, "guard.reasoning": False},
    "rsafe-sft": {
        **WITH_SFT,
        "data.traces": [
            share("toxicchat", 1400),
            share("aegis2", 2000),
            share("pku-saferlhf", 2000),
            share("beavertails", 2000),
        ],
    },
    "rsafe-sft-noreason": {**SFT_ALONE, "guard.reasoning": False, "guard.train": None, "guard.validation": None},
    "rsafe-ood-jailbreak": {
        **RSAFE,
        "seed": 42,
        "data.rows_per_label": 1000,
        "data.sources": ["wildguardtrain-vanilla"],
        "data.safe_only": [],
        "data.unsafe_only": [],
        "guard.train.prompts_per_step": 8,
    },
    "rsafe-ood-category": {
        **RSAFE,
        "seed": 42,
        "data.sources": [],
        "data.safe_only": [share("wildguardtrain", 1000)],
        "data.unsafe_only": [share("wildguardtrain", 500, 0, (name,)) for name in JUST_THREE],
        "guard.policy": "wildguard-emerging-train",
    },
}
WITHOUT_RL = {key: value for key, value in TARS.items() if not key.startswith("rl.")}
DPO = {
    **{key: TARS[key] for key in TARS if key.startswith(("rl.sampling.", "rl.reward."))},
    "rl.algorithm": "dpo",
    "rl.epochs": 3,
    "rl.learning_rate": 3e-4,
    "rl.batch_size": 16,
    "rl.beta": 0.01,
    "rl.rpo_alpha": 3.0,
    "rl.rollouts_per_prompt": 8,
    "rl.max_prompt_tokens": 512,
}
SMALL = {**TARS, "model": "Qwen/Qwen2.5-1.5B-Instruct", "data.trace_prompts": False, "sft.reasoning": True}
RELEASED = [share("tars-released-0.5", 2000)]
FROM_RELEASED = {
    **{key: TARS[key] for key in TARS if key.startswith(("rl.", "eval."))},
    "model": "danielkty22/TARS-SFT-1.5B",
    "seed": 0,
    "data.prompts": 2000,
    "data.harmful_ratio": 0.5,
    "data.ambiguous_ratio": 0.0,
    "data.harmful": RELEASED,
    "data.harmless": RELEASED,
    "data.ambiguous": [],
    "data.traces": [],
    "data.hygiene.deduplicate": "none",
    "data.hygiene.on_overlap": "allow",
}
RUBRIC = "rubric:deliberative@openai/gpt-4.1-mini"
FIGURES |= {
    "tars-1.5b-released": FROM_RELEASED,
    "baseline-sft": {
        **WITHOUT_RL,
        "model": "danielkty22/TARS-SFT-1.5B",
        "data.trace_prompts": True,
        "data.traces_per_prompt": 8,
        "data.teacher.samples": 8,
        "sft.learning_rate": 3e-4,
        "sft.epochs": 3,
        "sft.batch_size": 16,
    },
    "baseline-dpo": {**WITHOUT_RL, **DPO},
    "baseline-rl-noreason": {
        **SMALL,
        "sft.reasoning": False,
        "rl.reward.require_format": False,
        "eval.prefix": "",
    },
    "baseline-deliberative": {**SMALL, "rl.reward.safety": RUBRIC, "rl.reward.task": RUBRIC},
    "ablation-harmful-only": {**SMALL, "data.harmful_ratio": 1.0},
    "ablation-no-ambiguous": {**SMALL, "data.ambiguous_ratio": 0.0, "data.ambiguous": []},
    "ablation-heavy-sft": {**SMALL, "sft.learning_rate": 1e-4, "sft.epochs": 6},
    "ablation-single-reward": {**SMALL, "rl.reward.safety": "reward-model:Ray2333/GRM-llama3-8B-distill"},
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
        "rl.vllm.memory_share",
    }


CHANGED = {
    "tars-1.5b-released": {
        "model",
        "data.ambiguous_ratio",
        "data.harmful",
        "data.harmless",
        "data.ambiguous",
        "data.traces",
        "data.max_prompt_chars",
        "data.hygiene.deduplicate",
        "data.hygiene.on_overlap",
    },
    "baseline-sft": {
        "model",
        "data.trace_prompts",
        "data.traces_per_prompt",
        "data.teacher.samples",
        "sft.learning_rate",
    },
    "baseline-rl-noreason": {"sft.reasoning", "rl.reward.require_format", "eval.prefix"},
    "baseline-deliberative": {"rl.reward.safety", "rl.reward.task"},
    "ablation-harmful-only": {"data.harmful_ratio"},
    "ablation-no-ambiguous": {"data.ambiguous_ratio", "data.ambiguous"},
    "ablation-heavy-sft": {"sft.learning_rate", "sft.epochs"},
    "ablation-single-reward": {"rl.reward.safety"},
}


LEFT_OUT = {"baseline-sft": {"rl"}, "tars-1.5b-released": {"sft", "data"}}
"""Sections with values of TARS's that are not in the recipe: a training, or the teacher in the data."""


@pytest.mark.parametrize("name", CHANGED)
def test_a_baseline_differs_from_tars_only_where_it_says_so(name):
    """But for what a section that is not there leaves out."""
    tars, baseline = dict(leaves(load("tars-1.5b"))), dict(leaves(load(name)))
    assert {key for key in baseline if baseline[key] != tars.get(key)} == CHANGED[name]
    left_out = {key.partition(".")[0] for key in tars.keys() - baseline.keys()}
    assert left_out == LEFT_OUT.get(name, set())


def test_dpo_is_given_the_data_the_sft_and_the_evaluation_of_tars():
    tars, baseline = (load(name).model_dump() for name in ("tars-1.5b", "baseline-dpo"))
    same = [key for key in ("model", "seed", "data", "sft", "attack", "eval") if tars[key] == baseline[key]]
    assert same == ["model", "seed", "data", "sft", "attack", "eval"]
    assert {part: baseline["rl"][part] for part in ("sampling", "reward")} == {
        part: tars["rl"][part] for part in ("sampling", "reward")
    }


def test_the_only_reward_of_the_ablation_is_one_judge():
    safety, task = judges_of(load("ablation-single-reward").rl.reward)
    assert safety == task


SETS = {
    "rsafe": [
        "toxicchat",
        "openai-moderation",
        "aegis2",
        "wildguardtest",
        "pku-saferlhf",
        "beavertails",
        "xstest-response",
        "wildguardtest-responses",
    ],
    "rsafe-ood-jailbreak": ["wildguardtest-adversarial", "wildguardtest-vanilla"],
    "rsafe-ood-category": ["in-distribution", "out-of-distribution", "out-of-distribution"],
}


@pytest.mark.parametrize("name", SETS)
def test_a_guard_is_measured_on_the_papers_sets_whole(name):
    evaluation = load(name).guard.eval
    assert [chosen.label for chosen in evaluation.sets] == SETS[name]
    assert (evaluation.limit, evaluation.resamples) == (None, 1000)
    assert {chosen.split for chosen in evaluation.sets if chosen.source.startswith("wildguardtest")} == {"test"}


def test_emerging_harm_is_not_trained_on_and_is_judged_by_a_policy_that_names_it():
    recipe = load("rsafe-ood-category")
    within, safe, unseen = recipe.guard.eval.sets
    trained = {name for part in recipe.data.unsafe_only for name in part.categories}
    assert trained == {*JUST_THREE} < {*within.categories}
    assert {*unseen.categories} == {*MISINFORMATION}
    assert not {*unseen.categories} & {*within.categories}
    assert len(within.categories) == len(policies.load("wildguard").categories) - len(MISINFORMATION)
    assert (safe.safe, safe.unsafe, unseen.safe, unseen.unsafe) == (None, 0, 0, 567)
    assert [chosen.policy for chosen in recipe.guard.eval.sets] == [None, *["wildguard-emerging-test"] * 2]
    assert len(policies.load("wildguard-emerging-train").categories) == 3


@pytest.mark.parametrize("name", [name for name in NAMES if load(name).guard])
def test_a_shipped_guard_can_be_measured_on_its_own_sets(name):
    recipe = load(name)
    plan = plan_guard_eval(recipe, ModelSpec("guard", "openai"))
    assert plan.sets == recipe.guard.eval.sets


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-smoke")])
def test_the_smoke_recipes_run_on_a_bare_cpu(name):
    values = dict(leaves(load(name)))
    assert values["model"] == "embedded/smollm2-135m"
    assert {value for key, value in values.items() if key.endswith("precision")} == {"fp32"}
    assert {value for key, value in values.items() if key.endswith(".rollouts")} == {"engine"}
    lists = [rows for rows in values.values() if isinstance(rows, list)]
    named = {row["source"] for rows in lists for row in rows if isinstance(row, dict)}
    named |= {*values.get("data.sources", ()), *filter(None, map(values.get, ("eval.behaviors", "eval.benign")))}
    assert named <= {"sample", "sample-brief", "sample-verdicts"}
    judges = [values[key] for key in values if key.endswith("_judge") or key in ("rl.reward.safety", "rl.reward.task")]
    assert {*judges} <= {"refusal", "refusal-learned", "compliance", "guard:rsafe-smoke"}
