"""A GRPO section in verl's words, held against the configuration of the verl that is installed."""

import asyncio
import importlib
import importlib.util
import json
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import verl_peer
from hypothesis import given
from hypothesis import strategies as st
from test_knobs import BASE_GRPO, GRPO_CHANGES, changed
from transformers import AutoModelForCausalLM

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges.base import Exchange
from safereason.judges.reward_model import RewardModel, ServedRewardModel
from safereason.recipe.load import load
from safereason.recipe.schema import GRPO, RSafeRewardSettings, TarsRewardSettings
from safereason.rewards.base import RewardParts
from safereason.training import verl, verl_reward
from safereason.training.arguments import grpo_schedule

SIZE = {"prompts": 100, "seed": 3}
SECTION = GRPO(**{**BASE_GRPO, "lora": None})


REWARD_MODEL = "reward.reward_model"


def overrides(section: GRPO = SECTION, gpus: int = 1, **named) -> verl.HydraOverrides:
    return verl.overrides(section, model="org/name", name="mine", cluster=verl.GPUCluster(gpus), **{**SIZE, **named})


def composed(arguments: verl.HydraOverrides, here: str = "/a folder"):
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
    "extra": {
        "extra": {
            "actor_rollout_ref.rollout.tensor_model_parallel_size": 2,
            "trainer.balance_batch": False,
            "+actor_rollout_ref.model.override_config.attn_implementation": "flash_attention_2",
        }
    },
}


@pytest.mark.parametrize("changes", WHOLE.values(), ids=WHOLE.keys())
@pytest.mark.parametrize("validation_every", [None, 5])
def test_verl_knows_every_key_takes_every_value_and_finds_nothing_wrong(changes, validation_every, capsys):
    section = SECTION.model_copy(update=GRPO(**{**BASE_GRPO, "lora": None, **changes}).__dict__)
    for reward_model in (None, "org/reward"):
        arguments = overrides(section, validation_every=validation_every, reward_model=reward_model)
        assert_verl_takes(section, arguments, capsys)


@pytest.mark.parametrize("name", ["tars-1.5b", "tars-7b", "rsafe"])
def test_verl_takes_the_recipes_of_the_papers(name, capsys):
    recipe = load(name, ["guard.train.sampling.repetition_penalty=1.0"] if name == "rsafe" else [])
    section = recipe.guard.train if name == "rsafe" else recipe.rl
    reward_model = verl_reward.reward_model_of(section.reward, "rl")
    assert reward_model == (None if name == "rsafe" else "Ray2333/GRM-llama3-8B-distill")
    assert_verl_takes(section, overrides(section, gpus=8, prompts=5000, reward_model=reward_model), capsys)


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
        f"{actor}.use_dynamic_bsz": True,
        "actor_rollout_ref.model.use_remove_padding": True,
        "actor_rollout_ref.ref.fsdp_config.param_offload": True,
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


def test_a_forward_pass_has_the_tokens_of_the_longest_rows_of_a_micro_batch():
    longest = SECTION.max_prompt_tokens + SECTION.sampling.max_new_tokens
    arguments = overrides()
    limits = {value for key, value in arguments.items() if key.endswith("max_token_len_per_gpu")}
    assert limits == {SECTION.micro_batch_size * longest}
    # The paper's authors had 9208.
    tars = overrides(load("tars-1.5b", []).rl, gpus=4)
    assert tars["actor_rollout_ref.actor.ppo_max_token_len_per_gpu"] == 2 * (512 + 4096)


def test_a_batch_is_shared_by_all_gpus_or_refused():
    overrides(gpus=3)
    overrides(gpus=6)
    with pytest.raises(InputError, match="cannot be shared by 5 processes"):
        overrides(gpus=5)


def test_verl_reads_the_model_with_an_attention_that_needs_no_package(micro_model):
    """verl 0.9.1 takes flash_attention_2 where nothing is said, and no extra for vLLM installs flash-attn."""
    verl_peer.core_algos()
    model_config = importlib.import_module("verl.workers.config").HFModelConfig
    read = [model_config(path=str(micro_model)), model_config(path=str(micro_model), override_config=attention())]
    assert [config.hf_config._attn_implementation for config in read] == ["flash_attention_2", "sdpa"]


def attention() -> dict[str, object]:
    name = "attn_implementation"
    return {name: verl.FREE[f"+actor_rollout_ref.model.override_config.{name}"]}


def test_rows_that_verl_packs_are_read_as_if_apart(micro_model):
    """Packed rows have no mask: their positions alone say where one ends."""
    model = AutoModelForCausalLM.from_pretrained(micro_model, **attention()).eval()
    rows = [torch.arange(5, 5 + length) for length in (7, 3, 12)]
    positions = torch.cat([torch.arange(len(row)) for row in rows])
    with torch.no_grad():
        packed = model(torch.cat(rows)[None], attention_mask=None, position_ids=positions[None], use_cache=False).logits
        apart = torch.cat([model(row[None]).logits[0] for row in rows])
    torch.testing.assert_close(packed[0], apart)


def test_a_reward_model_has_gpus_of_its_own():
    arguments = overrides(reward_model="org/reward")
    expected = {
        f"{REWARD_MODEL}.enable": True,
        f"{REWARD_MODEL}.enable_resource_pool": True,
        f"{REWARD_MODEL}.n_gpus_per_node": 1,
        f"{REWARD_MODEL}.model_path": "org/reward",
        f"{REWARD_MODEL}.rollout.name": "vllm",
        f"{REWARD_MODEL}.rollout.free_cache_engine": False,
    }
    assert {key: arguments[key] for key in expected} == expected
    assert [key for key in overrides() if key.startswith(REWARD_MODEL)] == [f"{REWARD_MODEL}.enable"]
    more = SECTION.model_copy(update={"extra": {f"{REWARD_MODEL}.n_gpus_per_node": 2}})
    assert overrides(more, reward_model="org/reward")[f"{REWARD_MODEL}.n_gpus_per_node"] == 2
    config = composed(arguments).reward.reward_model
    served = importlib.import_module("verl.utils.config").omega_conf_to_dataclass(config)
    assert (served.n_gpus_per_node * served.nnodes, served.rollout.tensor_model_parallel_size) == (1, 1)


@pytest.mark.parametrize(
    ("safety", "task", "expected"),
    [
        ("moderation", "org/name", "org/name"),
        ("refusal", "reward-model:org/name", "org/name"),
        ("reward-model:org/name", "reward-model:org/name", "org/name"),
        ("refusal", "compliance", None),
        ("guard:openai/served", "compliance", None),
    ],
)
def test_the_reward_model_that_verl_serves(safety, task, expected):
    reward = TarsRewardSettings(name="tars", safety=safety, task=task)
    assert verl_reward.reward_model_of(reward, "rl") == expected
    assert verl_reward.reward_model_of(RSafeRewardSettings(name="rsafe"), "guard.train") is None


@pytest.mark.parametrize(
    ("safety", "task", "error"),
    [
        (
            "harmbench",
            "compliance",
            r"rl\.reward\.safety: --backend verl keeps no GPU for the model of 'harmbench'; serve it",
        ),
        (
            "reward-model:a/b",
            "reward-model:c/d",
            r"rl\.reward: --backend verl serves one reward model, and here are a/b and c/d",
        ),
    ],
)
def test_models_that_would_collide_with_verl_are_refused(safety, task, error):
    with pytest.raises(InputError, match=error):
        verl_reward.reward_model_of(TarsRewardSettings(name="tars", safety=safety, task=task), "rl")


class Classifier(BaseHTTPRequestHandler):
    """vLLM's `/classify` with the micro reward model behind it."""

    judge: RewardModel

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (self.path, request["use_activation"]) == ("/classify", False)
        with torch.inference_mode():
            (logit,) = self.judge._logits([request["input"]])
        content = json.dumps({"data": [{"index": 0, "probs": [logit], "num_classes": 1}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def router(micro_classifier, monkeypatch) -> Iterator[str]:
    """Host and port of verl's server of the reward model."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(Classifier, "judge", RewardModel(ModelSpec(str(micro_classifier))), raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Classifier)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_served_reward_model_scores_as_the_one_that_is_loaded(router, micro_classifier, tmp_path):
    exchanges = [Exchange("Why?", "Because."), Exchange("p", "a" * 3000), Exchange("What?", "<|im_end|> it")]
    served = ServedRewardModel(ModelSpec(str(micro_classifier)), f"http://{router}").judge(exchanges)
    loaded = Classifier.judge.judge(exchanges)
    assert [verdict.score for verdict in served] == pytest.approx([verdict.score for verdict in loaded], abs=1e-6)
    assert [verdict.details.get("truncated", False) for verdict in served] == [False, True, False]

    reward = TarsRewardSettings(name="tars", safety="refusal", task=str(micro_classifier))
    verl_reward.write_config(tmp_path / "reward.json", reward, None)
    info = {"id": "a/1", "user": "Why?", "kind": "harmless", "label": None, "response": None}
    given = {"config": str(tmp_path / "reward.json"), "reward_router_address": router, "reward_model_tokenizer": None}
    scores = asyncio.run(verl_reward.compute_score("a", "<think>\na\n</think>\n\nBecause.", "harmless", info, **given))
    assert scores["score"] == pytest.approx(loaded[0].score, abs=1e-6)


def test_a_server_that_is_down_fails_its_verdicts(router, micro_classifier, short_pauses):
    served = ServedRewardModel(ModelSpec(str(micro_classifier)), "http://127.0.0.1:9")
    (verdict,) = served.judge([Exchange("Why?", "Because.")])
    assert verdict.failed
    assert "the reward model failed" in str(verdict.reason)


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
        queued = verl_reward.QueuedReward(reward)
        monkeypatch.setattr(verl_reward, "_open_queued_reward", lambda config, router: queued)
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
