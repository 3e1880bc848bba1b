"""verl's configuration from a recipe's GRPO section, as overrides for `verl.trainer.main_ppo` (verl 0.9).

Pure functions that import nothing of verl's, so that a plan can be shown and exported on any machine. As in
`training.arguments`, each figure is assigned once and nothing that matters is left to verl's defaults (it would train
with a critic, without a KL term, on shuffled prompts). A value that begins with `$here/` lies in the exported folder.

Differences from `training.grpo`:
    1. An unscored rollout leaves its group: the reward function raises, and verl 0.9 trains on the rest of the group
       (NaN would spread to every weight, 0 would be a verdict). In our loop such a rollout stays in the KL and entropy
       terms with an advantage of 0; here it is in no term.
    2. A group of which a single rollout was scored has that score as its advantage (verl), where ours has 0.
    3. The log-ratio is clamped to ±20 and k3 to ±10 (verl).
    4. Rollouts are always drawn by vLLM on the GPUs that train; `rollouts`, `vllm` and `shared_prefix` have no
       counterpart. The last changes no figure.
    5. Validation means the reward on the rows held out; there is no F1, and no model is kept for it.
    6. Rows are packed without padding into forward passes of as many tokens as `micro_batch_size` of the longest rows
       have (9216 in tars-1.5b, as the authors' 9208), where ours has that many rows. The loss is the same.
    7. A reward model is served by vLLM on a GPU of its own, in bf16. verl's workers that score ask Ray for no GPU: what
       they open lies on the first one, beside vLLM and a trainer. On the GPUs that train, verl 0.9 serves a reward
       model to its own reward alone, which knows no kinds of prompts.
"""

import json
import re
from dataclasses import dataclass

from safereason.errors import InputError
from safereason.recipe.schema import GRPO, LoRA
from safereason.training.arguments import cut_batch, total_steps

HydraOverrides = dict[str, object]
"""Values by dotted key; a `+` before a key adds one that verl's own files do not hold."""

HERE = "$here"
"""Stands for the exported folder until `run.sh` knows where it is."""
TRAIN = "train.parquet"
VALIDATION = "validation.parquet"
REWARD = "reward.json"
CHECKPOINTS = "checkpoints"
ROLLOUTS = "rollouts"
VERL_EPSILON = 1e-6
"""Added to the group's standard deviation by verl, which has no key for it."""
FREE: HydraOverrides = {
    # verl's default is flash_attention_2, whose package no extra for vLLM installs. Packed rows stay apart in both.
    "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
    # verl's default, 2, wants a second GPU.
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
    # The reference has nothing to do most of the time; TARS's authors kept it on the CPU as well.
    "actor_rollout_ref.ref.fsdp_config.param_offload": True,
}
"""Overrides that `extra` may set otherwise: they change where and how fast verl computes, not what."""
REWARD_GPUS = "reward.reward_model.n_gpus_per_node"
REWARD_NODES = "reward.reward_model.nnodes"
FREE_REWARD_MODEL: HydraOverrides = {
    REWARD_GPUS: 1,
    REWARD_NODES: 1,
    "reward.reward_model.rollout.tensor_model_parallel_size": 1,
    "reward.reward_model.rollout.gpu_memory_utilization": 0.85,
}
"""As `FREE`, where there is a reward model: the GPUs of its own."""
# Words that Hydra's grammar reads as themselves, without quotes.
_PLAIN = re.compile(r"(?!(true|false|null|nan|inf)$)[a-z_][\w./:-]*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class GPUCluster:
    """The GPUs that train."""

    gpus_per_node: int = 1
    nodes: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return self.gpus_per_node * self.nodes


def overrides(
    section: GRPO,
    *,
    prompts: int,
    model: str,
    name: str,
    seed: int,
    cluster: GPUCluster,
    validation_every: int | None = None,
    key: str = "rl",
    reward_model: str | None = None,
) -> HydraOverrides:
    """The overrides that a recipe's section becomes.

    Args:
        section: The recipe's figures.
        prompts: Prompts an epoch.
        model: Folder or hub id of the model to start from.
        name: Name of the experiment.
        seed: Seed of the rollouts and of the optimizer's workers.
        cluster: The machines.
        validation_every: Steps between two validations; None has none.
        key: The section's dotted key, for messages.
        reward_model: Folder or hub id of the reward model, where the reward has one.

    Raises:
        InputError: A value has no counterpart in verl, or the batch cannot be cut for so many GPUs.
    """
    _refuse_unmapped(section, key)
    owned = {
        **_algorithm_overrides(),
        **_data_overrides(section, seed, validation_every),
        **_model_overrides(model, section),
        **_actor_overrides(section, seed),
        **_batch_overrides(section, cluster, key),
        **_rollout_overrides(section, seed),
        **_reward_overrides(reward_model),
        **_trainer_overrides(section, prompts, name, cluster, validation_every, key),
    }
    taken = sorted(owned.keys() & section.extra.keys())
    if taken:
        raise InputError(f"{key}.extra.{taken[0]}: this is set by a field of the section itself; set it there")
    free = FREE
    if reward_model is not None:
        free = {**FREE, **FREE_REWARD_MODEL}
    return {**free, **owned, **section.extra}


def hydra_lines(given: HydraOverrides) -> list[str]:
    """One override a line, in the grammar of Hydra's command line."""
    return [f"{key}={_hydra_value(value)}" for key, value in given.items()]


def _hydra_value(value: object) -> str:
    """A value in the grammar of Hydra's command line."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_hydra_value, value))}]"
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        # To Hydra a backslash is one unless a quote follows.
        escaped = re.sub(r"(?<!\\)(\\*)('|$)", lambda match: 2 * match[1] + match[2].replace("'", "\\'"), value)
        return f"'{escaped}'"
    return str(value)


def _refuse_unmapped(section: GRPO, key: str) -> None:
    """Refuses a value that verl has no key for, rather than train something else.

    Raises:
        InputError: There is such a value.
    """
    # By the section's key: whether its value is one of these, the reason, and the value to set in its place.
    problems = {
        "sampling.repetition_penalty": (section.sampling.repetition_penalty != 1, "verl draws without one", 1),
        "sampling.temperature": (section.sampling.temperature == 0, "a group drawn at 0 has no spread", 1),
        "advantage_epsilon": (section.advantage_epsilon != VERL_EPSILON, "verl's is fixed", VERL_EPSILON),
        "drop_uniform_groups": (section.drop_uniform_groups, "verl draws other prompts in their place", "false"),
        "lr_schedule": (section.lr_schedule == "linear", "verl has constant and cosine", "constant"),
        "precision": (section.precision == "fp32", "verl's merged model is bf16", "bf16"),
        "rollouts": (section.rollouts == "vllm-server", "verl draws on the GPUs that train", "vllm-colocate"),
        "lora.dropout": (bool(section.lora and section.lora.dropout), "verl's adapters have none", 0),
        "lora.alpha": (bool(section.lora and section.lora.alpha % 1), "verl's is a whole number", 32),
    }
    for name, (unmapped, reason, instead) in problems.items():
        if unmapped:
            raise InputError(f"{key}.{name}: --backend verl cannot do this ({reason}); pass {key}.{name}={instead}")
    for name in section.extra:
        if "." not in name:
            raise InputError(f"{key}.extra.{name}: this is vLLM's; --backend verl takes dotted keys of verl's there")


def _algorithm_overrides() -> HydraOverrides:
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": True,
        "algorithm.use_kl_in_reward": False,
        "algorithm.filter_groups.enable": False,
        # The rollouts' log-probabilities are taken anew, and not corrected for vLLM's.
        "algorithm.rollout_correction.rollout_is": None,
        "algorithm.rollout_correction.rollout_rs": None,
        "algorithm.rollout_correction.bypass_mode": False,
    }


def _data_overrides(section: GRPO, seed: int, validation_every: int | None) -> HydraOverrides:
    # verl opens a validation set even where it never validates.
    validation = TRAIN if validation_every is None else VALIDATION
    return {
        "data.train_files": f"{HERE}/{TRAIN}",
        "data.val_files": f"{HERE}/{validation}",
        "data.shuffle": False,  # the rows are in the order of `training.order`
        "data.validation_shuffle": False,
        "data.seed": seed,
        "data.train_batch_size": section.prompts_per_step,
        "data.max_prompt_length": section.max_prompt_tokens,
        "data.max_response_length": section.sampling.max_new_tokens,
        "data.filter_overlong_prompts": False,  # they are left out of the rows
        "data.truncation": "error",
        "data.trust_remote_code": False,
    }


def _model_overrides(model: str, section: GRPO) -> HydraOverrides:
    return {
        "actor_rollout_ref.model.path": model,
        "actor_rollout_ref.model.trust_remote_code": False,
        "actor_rollout_ref.model.enable_gradient_checkpointing": section.activation_checkpointing,
        "actor_rollout_ref.model.use_remove_padding": True,
        **_adapter_overrides(section.lora),
    }


def _adapter_overrides(lora: LoRA | None) -> HydraOverrides:
    if lora is None:
        return {"actor_rollout_ref.model.lora_rank": 0}
    return {
        "actor_rollout_ref.model.lora_rank": lora.rank,
        "actor_rollout_ref.model.lora_alpha": int(lora.alpha),
        "actor_rollout_ref.model.target_modules": lora.target_modules,
        # vLLM is sent the adapters only, so it has to read the model itself.
        "actor_rollout_ref.rollout.load_format": "safetensors",
    }


def _actor_overrides(section: GRPO, seed: int) -> HydraOverrides:
    actor: HydraOverrides = {
        "strategy": "fsdp",
        # One update on each batch of rollouts, so that the ratio is 1 and the clips are inert.
        "ppo_epochs": 1,
        "shuffle": False,
        "data_loader_seed": seed,
        "policy_loss.loss_mode": "vanilla",
        "clip_ratio": section.clip,
        "clip_ratio_low": section.clip,
        "clip_ratio_high": section.clip,
        "clip_ratio_c": section.dual_clip,
        # The mean over all tokens of the step.
        "loss_agg_mode": "token-mean",
        "entropy_coeff": section.entropy_coef,
        "use_kl_loss": section.kl_coef > 0,
        "kl_loss_coef": section.kl_coef,
        "kl_loss_type": "low_var_kl",  # k3
        # verl has two keys for this figure.
        "grad_clip": section.max_grad_norm,
        "optim.clip_grad": section.max_grad_norm,
        "optim.optimizer": "AdamW",
        "optim.lr": section.learning_rate,
        "optim.lr_scheduler_type": section.lr_schedule,
        "optim.lr_warmup_steps_ratio": section.warmup_ratio,
        "optim.weight_decay": section.weight_decay,
        # fp32 weights and bf16 arithmetic, as of `training.model`.
        "fsdp_config.model_dtype": "fp32",
        "fsdp_config.dtype": "bfloat16",
        "fsdp_config.seed": seed,
        "checkpoint.save_contents": ["model", "optimizer", "extra"],
    }
    return _with_prefix("actor_rollout_ref.actor.", actor)


def _batch_overrides(section: GRPO, cluster: GPUCluster, key: str) -> HydraOverrides:
    """One update a step on all of its prompts, each GPU's share packed into forward passes by its tokens."""
    # verl gives each GPU as many sequences as the others.
    cut_batch(section.prompts_per_step * section.rollouts_per_prompt, section.micro_batch_size, cluster.gpus, key)
    tokens = section.micro_batch_size * (section.max_prompt_tokens + section.sampling.max_new_tokens)
    return {
        "actor_rollout_ref.actor.ppo_mini_batch_size": section.prompts_per_step,
        "actor_rollout_ref.actor.use_dynamic_bsz": True,
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": tokens,
        "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": True,
        "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu": tokens,
        "actor_rollout_ref.ref.log_prob_use_dynamic_bsz": True,
        "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": tokens,
    }


def _rollout_overrides(section: GRPO, seed: int) -> HydraOverrides:
    sampling: HydraOverrides = {
        "temperature": section.sampling.temperature,
        "top_p": section.sampling.top_p,
        "top_k": section.sampling.top_k or -1,
        "do_sample": True,
    }
    rollout: HydraOverrides = {
        "name": "vllm",
        "n": section.rollouts_per_prompt,
        "seed": seed,
        **sampling,
        **_with_prefix("val_kwargs.", {**sampling, "n": 1}),
    }
    return _with_prefix("actor_rollout_ref.rollout.", rollout)


def _reward_overrides(reward_model: str | None) -> HydraOverrides:
    return {
        **_reward_model_overrides(reward_model),
        "reward.num_workers": 1,  # each worker opens the judges for itself
        "reward.reward_manager.name": "naive",
        "reward.custom_reward_function.path": "pkg://safereason.training.verl_reward",
        "reward.custom_reward_function.name": "compute_score",
        "+reward.custom_reward_function.reward_kwargs.config": f"{HERE}/{REWARD}",
    }


def _reward_model_overrides(reward_model: str | None) -> HydraOverrides:
    """A server of verl's for the reward model, in a resource pool that nothing else is placed in."""
    if reward_model is None:
        return {"reward.reward_model.enable": False}
    served: HydraOverrides = {
        "enable": True,
        "enable_resource_pool": True,
        "model_path": reward_model,
        "rollout.name": "vllm",
        "rollout.dtype": "bfloat16",
        "rollout.load_format": "auto",
        # It has the GPU for itself, so that there is nobody to sleep for.
        "rollout.free_cache_engine": False,
    }
    return _with_prefix("reward.reward_model.", served)


def _trainer_overrides(
    section: GRPO, prompts: int, name: str, cluster: GPUCluster, validation_every: int | None, key: str
) -> HydraOverrides:
    steps = total_steps(prompts, section.prompts_per_step, section.epochs, section.max_steps, f"{key}.prompts_per_step")
    trainer: HydraOverrides = {
        "use_v1": True,
        "v1.trainer_mode": "sync",
        "critic_warmup": 0,
        "project_name": "safereason",
        "experiment_name": name,
        "nnodes": cluster.nodes,
        "n_gpus_per_node": cluster.gpus_per_node,
        "total_epochs": 1,  # the rows hold every epoch
        "total_training_steps": steps,
        "save_freq": section.save_steps,
        "max_actor_ckpt_to_keep": 2,  # one is whole while the next is being written
        "val_before_train": validation_every is not None,
        "test_freq": validation_every or -1,
        "resume_mode": "auto",
        "default_local_dir": f"{HERE}/{CHECKPOINTS}",
        "rollout_data_dir": f"{HERE}/{ROLLOUTS}",
        "logger": ["console", "file"],
    }
    return _with_prefix("trainer.", trainer)


def _with_prefix(prefix: str, overrides: HydraOverrides) -> HydraOverrides:
    """The overrides with a prefix before each key."""
    return {f"{prefix}{name}": value for name, value in overrides.items()}
