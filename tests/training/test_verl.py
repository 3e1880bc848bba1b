"""A GRPO section in verl's words, held against the configuration of the verl that is installed."""

import asyncio
import importlib
import importlib.util
import warnings
from pathlib import Path

import pytest
import verl_peer
from hypothesis import given
from hypothesis import strategies as st
from test_knobs import BASE_GRPO, GRPO_CHANGES, changed

from safereason.errors import InputError
from safereason.recipe.load import load
from safereason.recipe.schema import GRPO, RSafeRewardSettings, TarsRewardSettings
from safereason.rewards.base import RewardParts
from safereason.training import verl, verl_reward
from safereason.training.arguments import grpo_schedule

SIZE = {"prompts": 100, "seed": 3}
SECTION = GRPO(**{**BASE_GRPO, "lora": None})


def overrides(section: GRPO = SECTION, gpus: int = 1, **named) -> verl.Overrides:
    return verl.overrides(section, model="org/name", name="mine", cluster=verl.GPUCluster(gpus), **{**SIZE, **named})


def composed(arguments: verl.Overrides, here: str = "/a folder"):
    """verl's own configuration with these overrides, as its `main_ppo` composes it."""
    verl_peer.core_algos()  # or skips
    hydra = pytest.importorskip("hydra", reason="pip install --no-deps -r requirements/peers.txt")
    folder = Path(importlib.util.find_spec("verl").submodule_search_locations[0]) / "trainer" / "config"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with hydra.initialize_config_dir(str(folder), version_base=None):
            return hydra.compose("ppo_trainer", [line.replace(verl.HERE, here) for line in verl.hydra_lines(arguments)])


def plain(value):
    container = importlib.import_module("omegaconf").OmegaConf
    return container.to_container(value) if container.is_config(value) else value


def selected(config, key: str):
    return plain(importlib.import_module("omegaconf").OmegaConf.select(config, key.removeprefix("+")))


WHOLE = {
    "as it is": {},
    "adapters": {"lora": {"rank": 4, "target_modules": ("q_proj", "v_proj")}},
    "no kl": {"kl_coef": 0},
    "cosine": {"lr_schedule": "cosine", "warmup_ratio": 0.1},
    "extra": {"extra": {"actor_rollout_ref.rollout.tensor_model_parallel_size": 2, "trainer.balance_batch": False}},
}


@pytest.mark.parametrize("changes", WHOLE.values(), ids=WHOLE.keys())
@pytest.mark.parametrize("validation_every", [None, 5])
def test_verl_knows_every_key_takes_every_value_and_finds_nothing_wrong(changes, validation_every, capsys):
    section = SECTION.model_copy(update=GRPO(**{**BASE_GRPO, "lora": None, **changes}).__dict__)
    assert_verl_takes(section, overrides(section, validation_every=validation_every), capsys)


@pytest.mark.parametrize("name", ["tars-1.5b", "tars-7b", "rsafe"])
def test_verl_takes_the_recipes_of_the_papers(name, capsys):
    recipe = load(name, ["guard.train.sampling.repetition_penalty=1.0"] if name == "rsafe" else [])
    section = recipe.guard.train if name == "rsafe" else recipe.rl
    assert_verl_takes(section, overrides(section, gpus=8, prompts=5000), capsys)


def assert_verl_takes(section, arguments, capsys):
    config = composed(arguments)
    for key, value in arguments.items():
        expected = value.replace(verl.HERE, "/a folder") if isinstance(value, str) else value
        assert selected(config, key) == (list(expected) if isinstance(expected, tuple) else expected), key
    config.actor_rollout_ref.model.lora_rank = 0  # verl looks a rank up in a module that wants ray
    importlib.import_module("verl.utils.config").validate_config(config, section.kl_coef > 0, use_critic=False)
    assert "All configuration checks passed" in capsys.readouterr().out


def test_a_key_that_verl_does_not_have_fails():
    errors = importlib.import_module("hydra.errors") if importlib.util.find_spec("hydra") else pytest.skip("no hydra")
    with pytest.raises(errors.ConfigCompositionException, match="renamed"):
        composed({**overrides(), "actor_rollout_ref.actor.renamed": 1})


def test_the_recipe_of_tars_is_what_its_authors_ran():
    arguments = verl.overrides(
        load("tars-7b", []).rl, prompts=6400, model="org/name", name="tars-7b", seed=0, cluster=verl.GPUCluster(8)
    )
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    expected = {
        "algorithm.adv_estimator": "grpo",
        "data.train_batch_size": 32,
        f"{rollout}.n": 8,
        f"{actor}.ppo_mini_batch_size": 32,
        f"{actor}.ppo_epochs": 1,
        f"{actor}.clip_ratio_c": 3.0,
        f"{actor}.clip_ratio_low": 0.2,
        f"{actor}.clip_ratio_high": 0.2,
        f"{actor}.entropy_coeff": 0.001,
        f"{actor}.use_kl_loss": True,
        f"{actor}.kl_loss_coef": 0.001,
        f"{actor}.kl_loss_type": "low_var_kl",
        f"{actor}.loss_agg_mode": "token-mean",
        f"{actor}.optim.lr": 1e-6,
        f"{actor}.optim.weight_decay": 0.01,
        f"{actor}.optim.lr_scheduler_type": "constant",
        f"{actor}.grad_clip": 1.0,
        f"{rollout}.top_k": -1,
    }
    assert {key: arguments[key] for key in expected} == expected


def test_both_trainers_are_told_the_same():
    verls, schedule = overrides(), grpo_schedule(SECTION, prompts=SIZE["prompts"])
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    ours = {
        "trainer.total_training_steps": schedule.steps,
        "trainer.save_freq": SECTION.save_steps,
        "data.train_batch_size": SECTION.prompts_per_step,
        f"{actor}.kl_loss_coef": SECTION.kl_coef,
        f"{actor}.clip_ratio": SECTION.clip,
        f"{actor}.clip_ratio_c": SECTION.dual_clip,
        f"{actor}.entropy_coeff": SECTION.entropy_coef,
        f"{actor}.optim.lr": SECTION.learning_rate,
        f"{actor}.optim.weight_decay": SECTION.weight_decay,
        f"{actor}.optim.clip_grad": SECTION.max_grad_norm,
        f"{rollout}.n": SECTION.rollouts_per_prompt,
        f"{rollout}.temperature": SECTION.sampling.temperature,
        f"{rollout}.val_kwargs.top_p": SECTION.sampling.top_p,
        f"{actor}.ppo_micro_batch_size_per_gpu": schedule.batch.per_device,
        "data.max_response_length": SECTION.sampling.max_new_tokens,
        f"{rollout}.seed": SIZE["seed"],
        f"{actor}.ppo_epochs": 1,
        "actor_rollout_ref.model.enable_gradient_checkpointing": SECTION.activation_checkpointing,
    }
    assert {key: verls[key] for key in ours} == ours


REFUSED = {
    "advantage_epsilon",
    "drop_uniform_groups",
    "precision",
    "sampling.repetition_penalty",
    "lora.dropout",
    "extra",
}
ELSEWHERE = {"rollouts", "shared_prefix"}
"""What verl has no use for; the module says so."""
CHANGES = {k: v for k, v in GRPO_CHANGES.items() if not k.startswith("reward.") and k not in ELSEWHERE}


@pytest.mark.parametrize("key", CHANGES)
def test_each_field_is_mapped_or_refused(key):
    section = GRPO(**changed(BASE_GRPO, key, CHANGES[key]))
    if key in REFUSED:
        with pytest.raises(InputError, match=rf"^rl\.{key}.*verl"):
            overrides(section)
    else:
        assert overrides(section) != overrides(GRPO(**BASE_GRPO))


@pytest.mark.parametrize(
    "changes",
    [
        {"lr_schedule": "linear"},
        {"rollouts": "vllm-server"},
        {"lora": {"alpha": 0.5}},
        {"sampling": {"temperature": 0}},
    ],
)
def test_a_value_that_verl_has_no_word_for_is_refused(changes):
    with pytest.raises(InputError, match="--backend verl cannot do this"):
        overrides(GRPO(**{**BASE_GRPO, **changes}))


def test_a_key_that_the_section_owns_is_refused_in_extra():
    with pytest.raises(InputError, match=r"rl\.extra\.trainer\.save_freq: this is set by a field"):
        overrides(SECTION.model_copy(update={"extra": {"trainer.save_freq": 3}}))


def test_a_batch_is_cut_for_all_gpus_or_refused():
    assert overrides(gpus=3)["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"] == 4
    assert overrides(gpus=6)["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"] == 2
    with pytest.raises(InputError, match="cannot be shared by 5 processes"):
        overrides(gpus=5)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="$\n\r\0", exclude_categories=("Cs", "Cc")), min_size=1)


@given(name=TEXT)
def test_any_text_reaches_verl_as_it_is(name):
    hydra = pytest.importorskip("hydra.core.override_parser.overrides_parser")
    (line,) = verl.hydra_lines({"trainer.experiment_name": name})
    parsed = hydra.OverridesParser.create().parse_override(line).value()
    assert (parsed if isinstance(parsed, str) else parsed.text) == name


class Judged:
    """A reward that says what it was asked together."""

    def __init__(self, *totals) -> None:
        self.calls, self._totals = [], iter(totals) if totals else None

    def score(self, rows):
        self.calls.append([row.text for row in rows])
        totals = [next(self._totals) for _ in rows] if self._totals else 1 / 0
        return [RewardParts(total, {"format": 1.0, "safety": None}, "the server failed") for total in totals]


def results_of(texts: list[str], config: str = "config"):
    info = {"id": "a/1", "user": "Why?", "kind": "harmful", "label": None, "response": None, "index": 0}

    async def all_at_once():
        return await asyncio.gather(
            *(verl_reward.compute_score("a", text, "harmful", dict(info), config=config) for text in texts),
            return_exceptions=True,
        )

    return asyncio.run(all_at_once())


@pytest.fixture
def judged(monkeypatch):
    def use(*totals) -> Judged:
        reward = Judged(*totals)
        scorer = verl_reward.Scorer(reward)
        monkeypatch.setattr(verl_reward, "_open_scorer", lambda config: scorer)
        return reward

    return use


def test_an_unscored_rollout_raises_and_the_others_keep_their_rewards(judged):
    judged(1.0, None, 0.25)
    first, second, third = results_of(["x", "y", "z"])
    assert (first, third) == ({"score": 1.0, "format": 1.0}, {"score": 0.25, "format": 1.0})
    assert isinstance(second, verl_reward.Unscored)
    assert str(second) == "a/1: the server failed"


def test_rollouts_that_wait_together_are_judged_together(judged):
    reward = judged(*range(5))
    assert [row["score"] for row in results_of(list("abcde"))] == [0, 1, 2, 3, 4]
    assert reward.calls == [["a"], ["b", "c", "d", "e"]] or reward.calls == [list("abcde")]


def test_a_judge_that_breaks_down_raises_for_all_it_was_asked(judged):
    judged()
    assert [type(error) for error in results_of(["x", "y"])] == [ZeroDivisionError] * 2


@pytest.mark.parametrize(
    ("reward", "reasoning", "text", "score"),
    [
        (
            TarsRewardSettings(name="tars", safety="refusal", task="compliance"),
            None,
            "<think>a</think>\n\nI can't help.",
            1,
        ),
        (RSafeRewardSettings(name="rsafe"), True, r"<think>hm</think> \boxed{unsafe}", 1),
        (RSafeRewardSettings(name="rsafe"), True, r"\boxed{unsafe}", 0),
        (RSafeRewardSettings(name="rsafe"), False, r"\boxed{safe}", 0.1),
    ],
)
def test_the_reward_is_the_recipes(reward, reasoning, text, score, tmp_path):
    verl_reward.write_config(tmp_path / "reward.json", reward, reasoning)
    info = {"id": "a/1", "user": "Why?", "kind": "harmful", "label": "unsafe", "response": None}
    coroutine = verl_reward.compute_score("a", text, "unsafe", info, config=str(tmp_path / "reward.json"))
    assert asyncio.run(coroutine)["score"] == pytest.approx(score)


def test_the_reward_reads_what_the_chat_template_opened(tmp_path):
    reward = RSafeRewardSettings(name="rsafe")
    verl_reward.write_config(tmp_path / "reward.json", reward, True, "<think>\n")
    info = {"id": "a/1", "user": "Why?", "kind": "harmful", "label": "unsafe", "response": None}
    text = r"hm</think> \boxed{unsafe}"
    coroutine = verl_reward.compute_score("a", text, "unsafe", info, config=str(tmp_path / "reward.json"))
    assert asyncio.run(coroutine)["score"] == pytest.approx(1.0)


def test_verl_would_poison_a_group_with_nan():
    """Why an unscored rollout raises: there is no number that verl would leave out."""
    advantages = verl_peer.advantages([1.0, float("nan"), 0.0, 1.0, 0.0, 1.0, 0.0, 1.0], 4, 1e-6)
    assert advantages[:4].isnan().all()
    assert not advantages[4:].isnan().any()
