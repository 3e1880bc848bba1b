"""No dead knobs: changing any field that a stage reads changes what it makes. A new field fails until it is listed."""

from contextlib import nullcontext
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from grpo_parts import open_training
from pydantic import BaseModel

from safereason.attacks import ATTACKS
from safereason.attacks.base import Attack, AttackSettings
from safereason.data.example import Example, write_parquet
from safereason.engines.base import Completion
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges import JudgeSpec, Verdict
from safereason.judges.refusal import RefusalJudge
from safereason.recipe import schema
from safereason.recipe.schema import DPO, GRPO, SFT, GuardSection, Recipe
from safereason.rewards import RewardParts, RewardRow, open_reward
from safereason.runs.records import RecordLog
from safereason.stages import attack_plan, data, guard, guard_eval, pipeline, rl, sft
from safereason.stages.base import Options, Result
from safereason.stages.preparation.contamination import ContaminationCheck
from safereason.stages.preparation.mixture import draw_mixture
from safereason.stages.preparation.teacher import plan_teacher
from safereason.training import grpo, preferences, rollouts, shared_prefix
from safereason.training.arguments import dpo_arguments, grpo_schedule, sft_arguments, vllm_arguments
from safereason.training.model import lora_config

MIX = {"mix": "rsafe", "rows_per_label": 1, "sources": ["sample"]}
LORA = {"rank": 4}
TARS = {"name": "tars", "safety": "refusal", "task": "compliance"}
BASE_SFT = {"epochs": 2, "learning_rate": 1e-4, "batch_size": 8, "lora": LORA}
BASE_GRPO = {
    "epochs": 2,
    "learning_rate": 1e-6,
    "prompts_per_step": 2,
    "rollouts_per_prompt": 6,
    "micro_batch_size": 4,
    "kl_coef": 1e-3,
    "max_prompt_tokens": 64,
    "sampling": {},
    "reward": TARS,
    "lora": LORA,
}

SHARED = {
    "epochs": 0.2,
    "learning_rate": 1e-2,
    "lr_schedule": "cosine",
    "warmup_ratio": 0.5,
    "weight_decay": 0.5,
    "max_grad_norm": 0.5,
    "max_steps": 1,
    "precision": "fp32",
    "activation_checkpointing": True,
    "save_steps": 7,
    "extra": {"adam_beta1": 0.5},
    "lora.rank": 5,
    "lora.alpha": 5.0,
    "lora.dropout": 0.5,
    "lora.target_modules": ["q_proj"],
}
SFT_CHANGES = {**SHARED, "batch_size": 12, "micro_batch_size": 2, "max_tokens": 60, "reasoning": False}
GRPO_CHANGES = {
    **SHARED,
    "epochs": 0.1,
    "prompts_per_step": 4,
    "rollouts_per_prompt": 4,
    "micro_batch_size": 6,
    "kl_coef": 0.0,
    "clip": 0.5,
    "dual_clip": 5.0,
    "entropy_coef": 0.5,
    "advantage_epsilon": 0.5,
    "drop_uniform_groups": True,
    "max_prompt_tokens": 30,
    "rollouts": "vllm-colocate",
    "shared_prefix": False,
    "sampling.temperature": 0.5,
    "sampling.top_p": 0.5,
    "sampling.top_k": 5,
    "sampling.repetition_penalty": 2.0,
    "sampling.max_new_tokens": 5,
    "reward.safety": "guard",
    "reward.task": "other",
    "reward.require_format": False,
}
BASE_DPO = {
    "algorithm": "dpo",
    "epochs": 2,
    "learning_rate": 1e-4,
    "rollouts_per_prompt": 4,
    "batch_size": 8,
    "beta": 0.1,
    "rpo_alpha": 1.0,
    "max_prompt_tokens": 64,
    "sampling": {},
    "reward": TARS,
    "lora": LORA,
}
DPO_CHANGES = {
    **SHARED,
    "rollouts_per_prompt": 6,
    "batch_size": 12,
    "micro_batch_size": 4,
    "beta": 0.5,
    "rpo_alpha": 0.0,
    "max_prompt_tokens": 25,
    **{key: value for key, value in GRPO_CHANGES.items() if key.startswith(("sampling.", "reward."))},
}
VLLM_CHANGES = {
    "vllm.memory_share": ("vllm-colocate", 0.5),
    "vllm.tensor_parallel": ("vllm-colocate", 2),
    "vllm.sleep": ("vllm-colocate", False),
    "vllm.server": ("vllm-server", "http://other:8000"),
}
"""With who has to draw the rollouts for the field to count."""
VERDICT_CHANGES = {"reward.accuracy_weight": 0.5, "reward.format_weight": 0.5}
SHARE = {"source": "sample-verdicts", "prompts": 3}
SHARE_CHANGES = {"source": "sample", "prompts": 2, "skip": 1, "categories": ["U8"], "kind": "ambiguous"}
BASE_MIX = {
    "mix": "rsafe",
    "rows_per_label": 3,
    "sources": ["sample-verdicts"],
    "max_prompt_task_tokens": 4000,
    "max_response_task_tokens": 4000,
    "safe_only": [SHARE],
    "unsafe_only": [SHARE],
    "traces": [SHARE],
}
HYGIENE_CHANGES = {"near_duplicate": 0.3, "shared_words": 5, "deduplicate": "exact", "on_overlap": "allow"}
TEACHER = {"model": "org/one", "samples": 2}
TEACHER_CHANGES = {
    "model": "org/other",
    "samples": 3,
    "prefix": "<think>\n",
    "judge": "refusal",
    "sampling.temperature": 0.1,
    "sampling.top_p": 0.5,
    "sampling.top_k": 5,
    "sampling.repetition_penalty": 2.0,
    "sampling.max_new_tokens": 5,
}
BASE_TARS = {
    "mix": "tars",
    "prompts": 20,
    "harmful_ratio": 0.5,
    "harmful": [{"source": "sample", "prompts": 110}],
    "harmless": [{"source": "sample", "prompts": 140}],
    "ambiguous": [{"source": "sample", "prompts": 80}],
    "traces": [{"source": "sample", "prompts": 8}, {"source": "sample-brief", "prompts": 8}],
}
TARS_CHANGES = {
    "prompts": 10,
    "harmful_ratio": 0.7,
    "ambiguous_ratio": 0.2,
    "harmful": [{"source": "sample", "prompts": 12}],
    "harmless": [{"source": "sample-brief", "prompts": 20}],
    "ambiguous": [{"source": "sample-brief", "prompts": 20}],
    "traces": [{"source": "sample", "prompts": 3}],
    "traces_per_prompt": 2,
    "max_prompt_chars": 100,
    "without_sources": ["sample-brief"],
    "trace_prompts": True,
}
ATTACKING = {"attacker": "org/one", "judge": "refusal"}
ATTACKING_CHANGES = {
    "attacker": "org/other",
    "attackers": {"all-in-one": "org/other"},
    "judge": "rating:org/one",
    "max_queries": 5,
    "others": ["org/two"],
    "settings": {"all-in-one": {"tries": 4}},
    "sampling.temperature": 0.1,
    "sampling.top_p": 0.5,
    "sampling.top_k": 5,
    "sampling.repetition_penalty": 2.0,
    "sampling.max_new_tokens": 5,
}
EVALUATION = {
    "sampling": {},
    "behaviors": "sample",
    "benign": "sample",
    "harm_judge": "refusal",
    "refusal_judge": "refusal",
    "limit": 2,
}
EVALUATION_CHANGES = {
    "sampling.temperature": 0.5,
    "sampling.top_p": 0.5,
    "sampling.top_k": 5,
    "sampling.repetition_penalty": 2.0,
    "sampling.max_new_tokens": 5,
    "prefix": "",
    "behaviors": None,
    "attacks": ["prefill"],
    "harm_judge": "guard:openai/none",
    "benign": None,
    "refusal_judge": "refusal-learned",
    "also": ["simplesafetytests"],
    "limit": 1,
}
MIX_CHANGES = {
    "rows_per_label": 2,
    "sources": ["sample"],
    "max_prompt_task_tokens": 1260,
    "max_response_task_tokens": 1400,
    "without_categories": ["U8"],
    "validation_rows_per_label": 2,
    "safe_only": [],
    "unsafe_only": [],
    "traces": [],
    "without_sources": ["sample-verdicts"],
}
SET = {"source": "sample-verdicts", "safe": 12, "unsafe": 12}
SET_CHANGES = {
    "source": "sample",
    "name": "other",
    "split": "train",
    "categories": ["U8"],
    "safe": 9,
    "unsafe": 9,
    "skip": 1,
    "policy": "openai-names",
}
BASE_GUARD = {
    "policy": "default-names",
    "sft": BASE_SFT,
    "train": {**BASE_GRPO, "max_prompt_tokens": 4096, "reward": {"name": "rsafe"}},
    "validation": {"every_steps": 2},
    "sampling": {},
    "eval": {"sets": [SET], "resamples": 20},
}
GUARD_CHANGES = {
    "policy": "openai-names",
    "reasoning": False,
    "prompt_template": "prompt-brief",
    "response_template": "response-brief",
    "sft": None,
    "train": None,
    "validation.every_steps": 3,
    "validation.keep_best": False,
    "sampling.temperature": 0.5,
    "sampling.top_p": 0.5,
    "sampling.top_k": 5,
    "sampling.repetition_penalty": 2.0,
    "sampling.max_new_tokens": 5,
    "eval.sets": [{**SET, "skip": 2}],
    "eval.limit": 2,
    "eval.resamples": 30,
}
CHOICES = {"engine"}
"""Fields that choose what the machine would choose by itself, which `stages/test_run_engine.py` changes."""
LISTED_APART = {"hygiene", "teacher"}
PLACEMENT_KEYS = {"offload"}
"""Fields that say where a training is computed, which `training/test_offload.py` changes; no identity has them."""
ONE_OF_ITS_KIND = {"algorithm", "reward.name", "mix"}
"""Fields with a single value in this version."""


def leaves(model: type[BaseModel], prefix: str = "") -> set[str]:
    """The dotted fields of a section, those of the sections in it in their place."""
    names = set()
    for name, field in model.model_fields.items():
        inner = INNER.get((model, name))
        names |= leaves(inner, f"{prefix}{name}.") if inner else {f"{prefix}{name}"}
        known = inner or name in LISTED_APART
        assert known or not _is_section(field.annotation), f"{prefix}{name} is a section that INNER does not name"
    return names


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


INNER = {
    (SFT, "lora"): schema.LoRA,
    (GRPO, "lora"): schema.LoRA,
    (GRPO, "sampling"): schema.Sampling,
    (GRPO, "reward"): schema.TarsRewardSettings,
    (GRPO, "vllm"): schema.VLLM,
    (DPO, "lora"): schema.LoRA,
    (DPO, "sampling"): schema.Sampling,
    (DPO, "reward"): schema.TarsRewardSettings,
    (schema.Teacher, "sampling"): schema.Sampling,
    (schema.Attacking, "sampling"): schema.Sampling,
    (schema.Evaluation, "sampling"): schema.Sampling,
    (GuardSection, "sampling"): schema.Sampling,
    (GuardSection, "validation"): schema.GuardValidation,
    (GuardSection, "eval"): schema.GuardEvaluation,
}


def changed(base: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {**base, head: changed(base[head], rest, value) if rest else value}


def test_every_field_is_listed():
    assert leaves(SFT) - PLACEMENT_KEYS == SFT_CHANGES.keys()
    assert leaves(GRPO) - ONE_OF_ITS_KIND - PLACEMENT_KEYS == GRPO_CHANGES.keys() | VLLM_CHANGES.keys()
    assert leaves(DPO) - ONE_OF_ITS_KIND - PLACEMENT_KEYS == DPO_CHANGES.keys()
    assert leaves(schema.RSafeRewardSettings, "reward.") - ONE_OF_ITS_KIND == VERDICT_CHANGES.keys()
    assert leaves(GuardSection) == GUARD_CHANGES.keys()
    assert leaves(schema.GuardSet) == SET_CHANGES.keys()
    assert leaves(schema.RSafeMix) - ONE_OF_ITS_KIND == MIX_CHANGES.keys() | LISTED_APART
    assert leaves(schema.TarsMix) - ONE_OF_ITS_KIND == TARS_CHANGES.keys() | LISTED_APART
    assert leaves(schema.Hygiene) == HYGIENE_CHANGES.keys()
    assert leaves(schema.Teacher) == TEACHER_CHANGES.keys()
    assert leaves(schema.Attacking) - CHOICES == ATTACKING_CHANGES.keys()
    assert leaves(schema.Evaluation) - CHOICES == EVALUATION_CHANGES.keys()
    assert leaves(schema.SourceShare) == SHARE_CHANGES.keys()


@pytest.mark.parametrize("key", SFT_CHANGES)
def test_each_sft_field_changes_what_is_built(key, micro_model, tmp_path):
    before = _sft(BASE_SFT, micro_model, tmp_path / "before")
    assert before != _sft(changed(BASE_SFT, key, SFT_CHANGES[key]), micro_model, tmp_path / "after")


def _sft(values: dict[str, Any], model, folder) -> dict[str, Any]:
    section = SFT(**values)
    return {
        "rows": _rows_trained_on(section, model, folder),
        "arguments": sft_arguments(section, rows=100, seed=0, output_dir="out", cpu=False),
        "adapters": lora_config(section.lora).to_dict(),
    }


def _rows_trained_on(section: SFT, model, folder) -> list[Any]:
    """What the stage hands to the trainer."""
    trained: list[Any] = []
    folder.mkdir()
    answers = [*["So."] * 8, "So it is, and so it was before."]
    write_parquet(
        folder / data.TRACES,
        [
            Example(f"own/{i}", "Why?", "harmless", "own", reasoning="hm", answer=answer)
            for i, answer in enumerate(answers)
        ],
    )
    recipe = Recipe(name="own", model=str(model), data=MIX, sft=section)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "built_data", lambda recipe, options: folder)
        patch.setattr("safereason.training.sft.train", lambda run, rows: trained.extend(rows) or {})
        sft.train_sft(recipe, Options(root=folder))
    return trained


@pytest.fixture(scope="module")
def base_built(micro_model, tmp_path_factory) -> dict[str, Any]:
    return _grpo(GRPO(**BASE_GRPO), micro_model, tmp_path_factory.mktemp("base"))


ELSEWHERE = ("save_steps", "extra", "rollouts")
"""Fields of GRPO that tests of the loop (`test_grpo_loop.py`) and of vLLM (`test_grpo_vllm.py`) change."""


@pytest.mark.parametrize("key", [key for key in GRPO_CHANGES if not key.startswith("reward.") and key not in ELSEWHERE])
def test_each_grpo_field_changes_what_is_built(key, base_built, micro_model, tmp_path):
    built = _grpo(GRPO(**changed(BASE_GRPO, key, GRPO_CHANGES[key])), micro_model, tmp_path)
    differing = {name for name in built if built[name] != base_built[name]}
    assert differing
    if key.startswith("sampling."):
        assert "drawn with" in differing


@pytest.mark.parametrize("key", VLLM_CHANGES)
def test_each_field_of_vllm_changes_what_trl_is_told(key):
    rollouts, value = VLLM_CHANGES[key]
    base = {**BASE_GRPO, "micro_batch_size": 6, "rollouts": rollouts, "vllm": {}}
    before, after = (vllm_arguments(GRPO(**values), 2, "rl", ()) for values in (base, changed(base, key, value)))
    assert before != after


def _grpo(section: GRPO, model, folder) -> dict[str, Any]:
    return {
        "schedule": grpo_schedule(section, prompts=100),
        "course": _course_of(section, model, folder),
        "adapters": lora_config(section.lora).to_dict(),
        "drawn with": _drawn_with(section),
        "prompts": _prompts_trained_on(section, model, folder),
        **_scored(section, model, folder),
    }


def _drawn_with(section: GRPO) -> Any:
    """The sampling that the engine is given."""
    samplings: list[Any] = []

    class Engine:
        def __init__(self, *arguments, **named) -> None: ...

        def generate(self, conversations, sampling, options, *, streams):
            samplings.append(sampling)
            return []

    sampler = rollouts.EngineSampler  # made anew, so that it has the stand-in
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "TransformersEngine", Engine)
        patch.setattr(rollouts, "unsharded", lambda model: nullcontext())
        sampler(None, None, section.sampling, 0).draw([], rollouts.Share(0, 0, section.rollouts_per_prompt), 0)
    return samplings


def _prompts_trained_on(section: GRPO, model, folder) -> list[str]:
    """What the stage hands to the trainer."""
    trained: list[Any] = []
    recipe = Recipe(name="own", model=str(model), data=MIX, rl=section)
    examples = [Example(f"own/{i}", "a" * i, "harmless", "own") for i in range(1, 40)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "train", lambda run, examples, *others: trained.extend(examples) or {})
        run = SimpleNamespace(path=folder, records=lambda name: RecordLog(folder / f"{name}.jsonl"))
        rl._train_grpo(section, recipe, ModelSpec.parse(str(model)), examples, None, run)
    return [example.id for example in trained]


def _course_of(section: GRPO, model, folder) -> dict[str, Any]:
    """Learning rates of ten steps, what one step makes of a gradient of ones, and how the model is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "precision_here", lambda precision: precision)
        trained = open_training(model, folder / "course", section, steps=20).trained
    weights = {name: weight for name, weight in trained.model.named_parameters() if weight.requires_grad}
    for weight in weights.values():
        weight.grad = weight.new_ones(weight.shape)
    norm = grpo.update(trained, section.max_grad_norm)
    left = [float(trained.optimizer.state[weight]["exp_avg"].abs().max()) for weight in weights.values()]
    rates = []
    for _ in range(10):
        rates.append(trained.schedule.get_last_lr())
        trained.schedule.step()
    groups = [(group["lr"], group["weight_decay"]) for group in trained.optimizer.param_groups]
    checkpoints_activations = any(
        getattr(module, "gradient_checkpointing", False) for module in trained.model.modules()
    )
    return {
        "rates": rates,
        "groups": groups,
        "gradient": (norm, left),
        "bf16": trained.bf16,
        "again": checkpoints_activations,
        "reference": trained.reference is None,
        "adapters": sorted(weights),
    }


def _scored(section: GRPO, model, folder) -> dict[str, Any]:
    """Advantages, and the loss, of a step whose first group has no spread."""
    rewards = {"Why?": [1.0] * 6, "How many eggs do I need?": [0.0, 0.5, 0.0, 1.0, 0.0, 0.0]}
    fixed = {"rollouts_per_prompt": 6, "prompts_per_step": 2, "micro_batch_size": 12, "rollouts": "engine"}
    chosen = section.model_copy(update={**fixed, "precision": "fp32", "lora": None})
    training = open_training(model, folder / "scored", chosen, rewards)
    batch = training.batch
    lengths = torch.tensor(batch.rows.lengths)
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(int(lengths.sum()), generator=generator) - 4.0
    figures = training.trained.module(rows=batch.rows)
    losses, _ = grpo.token_losses(figures, old, old, batch.advantages.repeat_interleave(lengths), chosen)
    return {
        "advantages": batch.advantages.tolist(),
        "counted": batch.is_counted.tolist(),
        "losses": losses.tolist(),
        "packed": _packs(chosen, model, folder),
    }


def _packs(section: GRPO, model, folder) -> bool:
    """Whether a prompt's rollouts are run as one row."""
    calls: list[Any] = []
    whole = shared_prefix.completion_logps

    def counted(*arguments):
        calls.append(1)
        return whole(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_prefix, "completion_logps", counted)
        training = open_training(model, folder / "packed", section)
        training.trained.module(rows=training.batch.rows)
    return bool(calls)


@pytest.fixture(scope="module")
def base_of_dpo(micro_model, tmp_path_factory) -> dict[str, Any]:
    return _dpo(DPO(**BASE_DPO), micro_model, tmp_path_factory.mktemp("base-dpo"))


@pytest.mark.parametrize("key", [key for key in DPO_CHANGES if not key.startswith("reward.")])
def test_each_dpo_field_changes_what_is_built(key, base_of_dpo, micro_model, tmp_path):
    built = _dpo(DPO(**changed(BASE_DPO, key, DPO_CHANGES[key])), micro_model, tmp_path)
    differing = {name for name in built if built[name] != base_of_dpo[name]}
    assert differing
    if key.startswith("sampling."):
        assert "drawn with" in differing


def _dpo(section: DPO, model, folder) -> dict[str, Any]:
    """What the stage draws, and hands to the trainer."""
    calls: list[Any] = []
    trained_pairs: list[Any] = []
    recipe = Recipe(name="own", model=str(model), data=MIX, rl=section)
    examples = [Example(f"own/{i}", "a" * i, "harmless", "own") for i in range(1, 12)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safereason.engines.engine_spec.open_engine", lambda spec, **named: _Random(calls))
        patch.setattr("safereason.training.dpo.train", lambda run, pairs: trained_pairs.extend(pairs) or {})
        run = SimpleNamespace(path=folder, records=lambda name: RecordLog(folder / f"{name}.jsonl"))
        preferences.train_dpo(section, recipe, ModelSpec.parse(str(model)), examples, _Counting(), run)
    return {
        "arguments": dpo_arguments(section, pairs=100, seed=0, output_dir="out", cpu=False),
        "adapters": lora_config(section.lora).to_dict(),
        "drawn with": [sampling for _, sampling in calls],
        "pairs": trained_pairs,
    }


class _Counting:
    """A reward that no two responses share."""

    def score(self, rows):
        return [RewardParts(float(i), {}) for i, _ in enumerate(rows)]


ROWS = [
    RewardRow("p", "harmful", "<think>\nhm\n</think>\n\nI can't help with that."),
    RewardRow("p", "harmful", "I can't help with that."),
    RewardRow("p", "harmless", "<think>\nhm\n</think>\n\nBoil it for ten minutes."),
    RewardRow("p", "harmless", r"<think>hm</think> \boxed{unsafe}", "unsafe"),
    RewardRow("p", "harmless", r"\boxed{unsafe}", "unsafe"),
    RewardRow("p", "harmless", r"<think>hm</think> \boxed{safe}", "unsafe"),
]


@pytest.mark.parametrize(("kind", "values"), [(GRPO, BASE_GRPO), (DPO, BASE_DPO)])
@pytest.mark.parametrize("key", [key for key in GRPO_CHANGES if key.startswith("reward.")])
def test_each_field_of_tars_reward_changes_the_reward(key, kind, values):
    base = kind(**values).reward
    other = kind(**changed(values, key, GRPO_CHANGES[key])).reward
    assert _rewarded(base) != _rewarded(other)


class _Named:
    """A judge that scores by the name it was opened with, so that another name is another score."""

    def __init__(self, spec: str) -> None:
        self.name = spec
        self.measure = "quality" if spec in ("compliance", "reward-model:other") else "refusal"

    def judge(self, exchanges):
        return [Verdict(1 / len(self.name), "any") for _ in exchanges]


def _rewarded(section: Any) -> list[Any]:
    return [(parts.total, parts.parts) for parts in open_reward(section, _Named).score(ROWS)]


@pytest.fixture(scope="module")
def base_guard(micro_model, tmp_path_factory) -> dict[str, Any]:
    return _guard(BASE_GUARD, micro_model, tmp_path_factory.mktemp("base-guard"))


@pytest.mark.parametrize("key", GUARD_CHANGES)
def test_each_guard_field_changes_what_is_trained_or_measured(key, base_guard, micro_model, tmp_path):
    built = _guard(changed(BASE_GUARD, key, GUARD_CHANGES[key]), micro_model, tmp_path)
    differing = {name for name in built if built[name] != base_guard[name]}
    assert differing
    if key in ("policy", "reasoning", "prompt_template", "response_template"):
        assert {"asked in training", "asked after it"} <= differing
    if key == "reasoning":
        assert "rewards" in differing


@pytest.mark.parametrize("key", VERDICT_CHANGES)
def test_each_field_of_rsafe_reward_changes_the_reward(key, base_guard, micro_model, tmp_path):
    values = changed(BASE_GUARD, f"train.{key}", VERDICT_CHANGES[key])
    result = _arguments_of_rl(GuardSection(**values), micro_model, tmp_path)
    assert result["rewards"] != base_guard["rewards"]


@pytest.mark.parametrize("key", SET_CHANGES)
def test_each_field_of_a_guards_set_changes_what_is_measured(key, base_guard, micro_model, tmp_path):
    values = changed(BASE_GUARD, "eval.sets", [{**SET, key: SET_CHANGES[key]}])
    measured = _measured(GuardSection(**values), micro_model, tmp_path)
    assert any(measured[name] != base_guard[name] for name in measured)


def _guard(values: dict[str, Any], model, folder) -> dict[str, Any]:
    section = GuardSection(**values)
    trained = _arguments_of_rl(section, model, folder / "rl") if section.train else {}
    return {"stages": _stages(section, model), **trained, **_measured(section, model, folder / "eval")}


def _stages(section: GuardSection, model) -> list[str]:
    """What `guard train` runs."""
    ran: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("train_guard_sft", "train_guard_rl"):
            patch.setattr(guard, name, lambda recipe, options, name=name: ran.append(name) or Result("run", {}))
        guard.train_guard(Recipe(name="own", model=str(model), data=MIX, guard=section), Options())
    return ran


def _arguments_of_rl(section: GuardSection, model, folder) -> dict[str, Any]:
    """What the stage hands to the trainer of the guard."""
    arguments: dict[str, Any] = {}
    (folder / "model").mkdir(parents=True)
    rows = [Example("own/1", "a", "harmless", "own"), Example("own/2", "b", "harmful", "own", response="c")]
    for name in (data.TRAIN, data.VALIDATION):
        write_parquet(folder / name, rows)
    recipe = Recipe(name="own", model=str(model), data=MIX, guard=section)
    run = SimpleNamespace(path=folder, records=lambda name: RecordLog(folder / f"{name}.jsonl"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            grpo, "train", lambda run, examples, reward, rollouts, **named: arguments.update(named, reward=reward) or {}
        )
        patch.setattr(
            "safereason.training.validation.Validation",
            lambda *positional, **named: SimpleNamespace(after_step=(named["every"], named["best"] is None)),
        )
        guard._train_guard_grpo(section.train, section, recipe, ModelSpec.parse(str(model)), folder, run)
    return {
        "asked in training": [arguments["prompt_builder"](example) for example in rows],
        "rewards": [(parts.total, parts.parts) for parts in arguments["reward"].score(ROWS)],
        "validations": arguments["validate"],
    }


def _measured(section: GuardSection, model, folder) -> dict[str, Any]:
    """What the guard is asked in its evaluation, and the figures; it answers at random."""
    calls: list[Any] = []
    recipe = Recipe(name="own", model=str(model), data=MIX, guard=section)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safereason.engines.engine_spec.open_engine_here", lambda spec, **named: _Random(calls))
        result = guard_eval.run_guard_eval(recipe, Options(root=folder, model=ModelSpec.parse(str(model))))
    return {"asked after it": calls, "figures": result.metrics["figures"]}


class _Random:
    """An engine that says one or the other, by a hash of what it is asked."""

    name = "random"
    tokenizer = None

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def generate(self, conversations, sampling, options):
        self.calls.append((conversations, sampling))
        for i, conversation in enumerate(conversations):
            label = ("safe", "unsafe")[sha256(conversation[0]["content"].encode()).digest()[0] % 2]
            options.on_finish(i, 0, Completion(rf"\boxed{{{label}}}", (1, 2), "stop"))
        return []


@pytest.fixture(scope="module")
def base_drawn(micro_model) -> Any:
    return _drawn(BASE_MIX, micro_model)


@pytest.mark.parametrize("key", MIX_CHANGES)
def test_each_field_of_a_guards_mix_changes_what_is_drawn(key, base_drawn, micro_model):
    assert _drawn({**BASE_MIX, key: MIX_CHANGES[key]}, micro_model) != base_drawn


@pytest.mark.parametrize("pool", ["safe_only", "unsafe_only", "traces"])
@pytest.mark.parametrize("key", SHARE_CHANGES)
def test_each_field_of_a_share_changes_what_is_drawn_of_it(pool, key, base_drawn, micro_model):
    if (pool, key) == ("safe_only", "categories"):
        with pytest.raises(InputError, match="no safe row after the first 0 of U8"):
            _drawn({**BASE_MIX, pool: [{**SHARE, key: SHARE_CHANGES[key]}]}, micro_model)
        return
    assert _drawn({**BASE_MIX, pool: [{**SHARE, key: SHARE_CHANGES[key]}]}, micro_model) != base_drawn


def _drawn(mix: dict[str, Any], model) -> Any:
    """Rows by name, in order, and how many were left out and why."""
    tested = {"sets": [{"source": "sample-verdicts"}]}
    recipe = Recipe(name="own", model=str(model), data=mix, guard={**BASE_GUARD, "eval": tested, "sft": None})
    return _rows_of(draw_mixture(recipe, Options(), ContaminationCheck.of(recipe)))


def _rows_of(mixture: Any) -> Any:
    parts = (mixture.prompts, mixture.traces, mixture.validation)
    return [[example.id for example in part] for part in parts], {k: n for k, n in mixture.drops.items() if n}


@pytest.mark.parametrize("key", HYGIENE_CHANGES)
def test_each_field_of_hygiene_changes_what_is_drawn(key, tmp_path):
    base = {"on_overlap": "drop"}
    assert _trained_beside_a_test(base, tmp_path) != _trained_beside_a_test(
        {**base, key: HYGIENE_CHANGES[key]}, tmp_path
    )


def _trained_beside_a_test(hygiene: dict[str, Any], folder) -> Any:
    """Rows that repeat each other nearly, and rows that the test set holds in one way or the other."""
    prompts = [
        "Which birds come to a garden in the snow?",
        "Which birds come to a garden in the snow!!",
        "How do bees find their way home?",
        "Who painted the ceiling, and how long did it take him?",
    ]
    tested = ["how do bees find their way home", "Tell me how long did it take him to build it"]
    for name, texts in (("train", prompts), ("test", tested)):
        write_parquet(
            folder / f"{name}.parquet", [Example(f"{name}/{i}", text, "harmful", name) for i, text in enumerate(texts)]
        )
    share = {"source": str(folder / "train.parquet"), "prompts": 4}
    mix = {"mix": "rsafe", "rows_per_label": 1, "sources": [], "unsafe_only": [share], "hygiene": hygiene}
    evaluation = {"sampling": {}, "behaviors": str(folder / "test.parquet"), "benign": None}
    recipe = Recipe(name="own", model="org/none", data=mix, eval=evaluation)
    return _rows_of(draw_mixture(recipe, Options(), ContaminationCheck.of(recipe)))


@pytest.mark.parametrize("key", TARS_CHANGES)
def test_each_field_of_the_mix_of_tars_changes_what_is_drawn(key):
    before, after = (
        Recipe(name="own", model="org/none", data=mix) for mix in (BASE_TARS, {**BASE_TARS, key: TARS_CHANGES[key]})
    )
    drawn = [_rows_of(draw_mixture(recipe, Options(), ContaminationCheck.of(recipe))) for recipe in (before, after)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("key", TEACHER_CHANGES)
def test_each_field_of_the_teacher_changes_what_it_is_asked_or_what_is_kept(key):
    plans = [
        plan_teacher(
            Recipe(name="own", model="org/none", data={**BASE_TARS, "traces": [HARMLESS], "teacher": teacher}),
            Options(),
        )
        for teacher in (TEACHER, changed(TEACHER_WHOLE, key, TEACHER_CHANGES[key]))
    ]
    requests = [
        (plan.teacher.model, len(plan.jobs), plan.teacher.sampling, plan.teacher.prefix, plan.judge) for plan in plans
    ]
    assert requests[0] != requests[1]


HARMLESS = {"source": "sample-harmless", "prompts": 4}
TEACHER_WHOLE = schema.Teacher(**TEACHER).model_dump()


def test_the_seed_reaches_the_trainer_of_sft():
    seeds = [sft_arguments(SFT(**BASE_SFT), rows=100, seed=seed, output_dir="out")["seed"] for seed in (1, 2)]
    assert seeds == [1, 2]


class Tries(AttackSettings):
    """The figures of an attack that needs everything."""

    tries: int = 1
    """How often."""


@pytest.mark.parametrize("key", ATTACKING_CHANGES)
def test_each_field_of_attacking_changes_what_an_attack_works_with(key, monkeypatch):
    needs = frozenset({"answers", "weights", "attacker", "score"})
    everything = Attack("all-in-one", "Needs everything", lambda *args: iter(()), needs, Tries)
    monkeypatch.setitem(ATTACKS, "all-in-one", everything)
    whole = schema.Attacking(**ATTACKING).model_dump()
    identities = []
    for section in (whole, changed(whole, key, ATTACKING_CHANGES[key])):
        recipe = Recipe(name="own", model="org/none", data=BASE_TARS, attack=section)
        plan = attack_plan.plan_attack(recipe, Options(), attack_plan.AttackRequest("all-in-one", source="sample"))
        identities.append(attack_plan.attack_identity(recipe, plan, ModelSpec.parse("org/target"), None))
    assert identities[0] != identities[1]


@pytest.fixture(scope="module")
def base_evaluated(tmp_path_factory) -> Any:
    return _evaluated(EVALUATION, tmp_path_factory.mktemp("base-evaluated"))


@pytest.mark.parametrize("key", EVALUATION_CHANGES)
def test_each_field_of_an_evaluation_changes_what_is_asked_and_judged(key, base_evaluated, tmp_path):
    assert _evaluated(changed(EVALUATION, key, EVALUATION_CHANGES[key]), tmp_path) != base_evaluated


def _evaluated(values: dict[str, Any], folder) -> list[Any]:
    """What `run` measures: what the model is asked and how, and which judge is opened."""
    calls: list[Any] = []
    recipe = Recipe(name="own", model="org/none", data=BASE_TARS, eval=values)

    class RecordingEngine:
        def generate(self, conversations, sampling, options):
            calls.append((conversations, sampling, options.prefix))
            for i in range(len(conversations)):
                options.on_finish(i, 0, Completion("I can't help with that.", (), "stop", options.prefix))

    def open_judge(spec, *how, **named):
        calls.append(spec)
        return RefusalJudge()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safereason.engines.engine_spec.open_engine", lambda spec, **named: RecordingEngine())
        patch.setattr(JudgeSpec, "open", open_judge)
        for name, measure in pipeline._evaluations(recipe).items():
            calls.append(name)
            if name in ("harmbench", "xstest"):
                measure(recipe, Options(root=folder, model=ModelSpec.parse("openai/none")))
    return calls


@pytest.mark.parametrize("key", ["offload", "vllm.sleep"])
def test_where_a_training_is_computed_changes_no_identity(key):
    changes = {"offload": "optimizer", "vllm.sleep": False}
    assert set(changes) == {"offload", *(f"vllm.{name}" for name in schema.PLACEMENT["vllm"])}
    base, other = ({**BASE_GRPO, "offload": "none", "vllm": {}} for _ in range(2))
    other = changed(other, key, changes[key])
    start = ModelSpec.parse("org/none")
    for section in ("rl", "guard"):
        identities = []
        for values in (base, other):
            if section == "rl":
                recipe = Recipe(name="own", model="org/none", data=BASE_TARS, rl=GRPO(**values))
                identities.append(rl.rl_identity(recipe, start, Options()))
            else:
                train = GRPO(**{**values, "reward": {"name": "rsafe"}})
                whole = GuardSection(**{**BASE_GUARD, "train": train.model_dump()})
                recipe = Recipe(name="own", model="org/none", data=MIX, guard=whole)
                identities.append(guard._guard_identity(recipe, whole, "train", train, start))
        assert identities[0] == identities[1]
        assert "learning_rate" in str(identities[0])


def test_report_to_changes_who_is_told_and_no_identity(micro_model, tmp_path, monkeypatch):
    trackers: list[str] = []
    monkeypatch.setattr("safereason.training.sft.train", lambda run, rows: trackers.append(run.report_to) or {})
    monkeypatch.setattr("safereason.training.tracking.check", lambda tracker: None)
    monkeypatch.setattr(data, "built_data", lambda recipe, options: tmp_path)
    write_parquet(tmp_path / data.TRACES, [Example("own/1", "Why?", "harmless", "own", reasoning="hm", answer="So.")])
    recipe = Recipe(name="own", model=str(micro_model), data=MIX, sft=SFT(**BASE_SFT))
    runs = []
    for tracker in schema.Recipe.model_fields["report_to"].annotation.__args__:
        changed_recipe = recipe.model_copy(update={"report_to": tracker})
        runs.append(sft.train_sft(changed_recipe, Options(root=tmp_path / "runs", on_existing="overwrite")).run)
    assert trackers == ["none", "trackio", "wandb", "tensorboard", "mlflow"]
    assert len(set(runs)) == 1
