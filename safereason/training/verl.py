"""From a recipe's GRPO section to verl's configuration, as overrides for `verl.trainer.main_ppo` (verl 0.9).

Pure functions that import nothing of verl's, so that a plan can be shown and exported on any machine. As in
`training.arguments`, each figure is assigned once and nothing that matters is left to verl's defaults (it would train
with a critic, without a KL term, on shuffled prompts). A value that begins with `$here/` lies in the exported folder.

What differs from `training.grpo`:
    1. An unscored rollout leaves its group: the reward function raises, and verl 0.9 trains on the rest of the group
       (NaN would spread to every weight, 0 would be a verdict). With TRL such a rollout stays in the KL and entropy
       terms with an advantage of 0; here it is in no term.
    2. A group of which a single rollout was scored has that score as its advantage (verl), where ours has 0.
    3. The log-ratio is clamped to ±20 and k3 to ±10 (verl).
    4. Rollouts are drawn by vLLM on the GPUs that train, whatever `rollouts` and `vllm` say; `shared_prefix` has no
       counterpart and changes no figure.
    5. verl warms up a constant learning rate where TRL does not: only `warmup_ratio: 0` is the same in both.
    6. Validation means the reward on the rows held out; there is no F1, and no model is kept for it.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from safereason.errors import InputError
from safereason.recipe.schema import GRPO, LoRA
from safereason.training.arguments import cut_batch, total_steps

Overrides = dict[str, Any]
"""Values by dotted key; a `+` before a key adds one that verl's own files do not hold."""

HERE = "$here"
"""Stands for the exported folder until `run.sh` knows where it is."""
TRAIN, VALIDATION, REWARD, CHECKPOINTS, ROLLOUTS = (
    "train.parquet",
    "validation.parquet",
    "reward.json",
    "checkpoints",
    "rollouts",
)
VERL_EPSILON = 1e-6
"""Added to the group's standard deviation by verl, which has no key for it."""
FREE: Overrides = {"actor_rollout_ref.rollout.tensor_model_parallel_size": 1}
"""Set only so that verl's default (2) does not want a second GPU: `extra` may set it otherwise."""
_PLAIN = re.compile(r"(?!(true|false|null|nan|inf)$)[a-z_][\w./:-]*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Cluster:
    """The machines that train."""

    gpus_per_node: int = 1
    nodes: int = 1

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.gpus_per_node * self.nodes


def overrides(
    section: GRPO,
    *,
    prompts: int,
    model: str,
    name: str,
    seed: int,
    cluster: Cluster,
    validation_every: int | None = None,
    key: str = "rl",
) -> Overrides:
    """The recipe's section in verl's words.

    Args:
        section: The recipe's figures.
        prompts: Prompts an epoch.
        model: Folder or hub id of the model to start from.
        name: What the experiment is called.
        seed: Seed of the rollouts and of the optimizer's workers.
        cluster: The machines.
        validation_every: Steps between two validations; None has none.
        key: The section's dotted key, for messages.

    Raises:
        InputError: A value has no counterpart in verl, or the batch cannot be cut for so many GPUs.
    """
    _refuse_unmapped(section, key)
    owned = {
        **_algorithm(section),
        **_data(section, seed, validation_every),
        **_model(model, section),
        **_actor(section, seed),
        **_batches(section, cluster, key),
        **_rollout(section, seed),
        **_reward(),
        **_trainer(section, prompts, name, cluster, validation_every, key),
    }
    taken = sorted(owned.keys() & section.extra.keys())
    if taken:
        raise InputError(f"{key}.extra.{taken[0]}: this is set by a field of the section itself; set it there")
    return {**FREE, **owned, **section.extra}


def lines(given: Overrides) -> list[str]:
    """One override a line, in the grammar of Hydra's command line."""
    return [f"{key}={_value(value)}" for key, value in given.items()]


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        # To Hydra a backslash is one unless a quote follows.
        escaped = re.sub(r"(?<!\\)(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), value)
        return f"'{escaped}'"
    return str(value)


def _refuse_unmapped(section: GRPO, key: str) -> None:
    """Refuses what verl has no key for, rather than train something else.

    Raises:
        InputError: There is such a value.
    """
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
            raise InputError(f"{key}.extra.{name}: this is TRL's; --backend verl takes dotted keys of verl's there")


def _algorithm(section: GRPO) -> Overrides:
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


def _data(section: GRPO, seed: int, validation_every: int | None) -> Overrides:
    return {
        "data.train_files": f"{HERE}/{TRAIN}",
        # verl opens a validation set even where it never looks at it.
        "data.val_files": f"{HERE}/{TRAIN if validation_every is None else VALIDATION}",
        "data.shuffle": False,  # the rows stand in the order of `training.order`
        "data.validation_shuffle": False,
        "data.seed": seed,
        "data.train_batch_size": section.prompts_per_step,
        "data.max_prompt_length": section.max_prompt_tokens,
        "data.max_response_length": section.sampling.max_new_tokens,
        "data.filter_overlong_prompts": False,  # they are left out of the rows
        "data.truncation": "error",
        "data.trust_remote_code": False,
    }


def _model(model: str, section: GRPO) -> Overrides:
    return {
        "actor_rollout_ref.model.path": model,
        "actor_rollout_ref.model.trust_remote_code": False,
        "actor_rollout_ref.model.enable_gradient_checkpointing": section.activation_checkpointing,
        **_adapters(section.lora),
    }


def _adapters(lora: LoRA | None) -> Overrides:
    if lora is None:
        return {"actor_rollout_ref.model.lora_rank": 0}
    return {
        "actor_rollout_ref.model.lora_rank": lora.rank,
        "actor_rollout_ref.model.lora_alpha": int(lora.alpha),
        "actor_rollout_ref.model.target_modules": lora.target_modules,
        # vLLM is sent the adapters only, so it has to read the model itself.
        "actor_rollout_ref.rollout.load_format": "safetensors",
    }


def _actor(section: GRPO, seed: int) -> Overrides:
    actor = {
        "strategy": "fsdp",
        "ppo_epochs": 1,
        "shuffle": False,
        "data_loader_seed": seed,
        "policy_loss.loss_mode": "vanilla",
        "clip_ratio": section.clip,
        "clip_ratio_low": section.clip,
        "clip_ratio_high": section.clip,
        "clip_ratio_c": section.dual_clip,
        "loss_agg_mode": "token-mean",
        "entropy_coeff": section.entropy_coef,
        "use_kl_loss": section.kl_coef > 0,
        "kl_loss_coef": section.kl_coef,
        "kl_loss_type": "low_var_kl",
        "grad_clip": section.max_grad_norm,
        "optim.clip_grad": section.max_grad_norm,
        "optim.optimizer": "AdamW",
        "optim.lr": section.learning_rate,
        "optim.lr_scheduler_type": section.lr_schedule,
        "optim.lr_warmup_steps_ratio": section.warmup_ratio,
        "optim.weight_decay": section.weight_decay,
        "fsdp_config.model_dtype": "fp32",
        "fsdp_config.dtype": "bfloat16",
        "fsdp_config.seed": seed,
        "checkpoint.save_contents": ["model", "optimizer", "extra"],
    }
    return {f"actor_rollout_ref.actor.{name}": value for name, value in actor.items()}


def _batches(section: GRPO, cluster: Cluster, key: str) -> Overrides:
    """One update a step on all of its prompts, each GPU's share cut into forward passes."""
    sequences = section.prompts_per_step * section.rollouts_per_prompt
    size = cut_batch(sequences, section.micro_batch_size, cluster.gpus, key).per_device
    return {
        "actor_rollout_ref.actor.ppo_mini_batch_size": section.prompts_per_step,
        "actor_rollout_ref.actor.use_dynamic_bsz": False,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": size,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": size,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": size,
    }


def _rollout(section: GRPO, seed: int) -> Overrides:
    drawn = {
        "temperature": section.sampling.temperature,
        "top_p": section.sampling.top_p,
        "top_k": section.sampling.top_k or -1,
        "do_sample": True,
    }
    rollout = {
        "name": "vllm",
        "n": section.rollouts_per_prompt,
        "seed": seed,
        **drawn,
        **{f"val_kwargs.{name}": value for name, value in {**drawn, "n": 1}.items()},
    }
    return {f"actor_rollout_ref.rollout.{name}": value for name, value in rollout.items()}


def _reward() -> Overrides:
    return {
        "reward.num_workers": 1,  # each worker opens the judges for itself
        "reward.reward_manager.name": "naive",
        "reward.custom_reward_function.path": "pkg://safereason.training.verl_reward",
        "reward.custom_reward_function.name": "compute_score",
        "+reward.custom_reward_function.reward_kwargs.config": f"{HERE}/{REWARD}",
    }


def _trainer(
    section: GRPO, prompts: int, name: str, cluster: Cluster, validation_every: int | None, key: str
) -> Overrides:
    steps = total_steps(prompts, section.prompts_per_step, section.epochs, section.max_steps, f"{key}.prompts_per_step")
    trainer = {
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
        "max_actor_ckpt_to_keep": 2,
        "val_before_train": validation_every is not None,
        "test_freq": validation_every or -1,
        "resume_mode": "auto",
        "default_local_dir": f"{HERE}/{CHECKPOINTS}",
        "rollout_data_dir": f"{HERE}/{ROLLOUTS}",
        "logger": ["console", "file"],
    }
    return {f"trainer.{key}": value for key, value in trainer.items()}
