"""TRL's arguments from a recipe's section: one assignment a number, and nothing left to TRL's defaults.

Pure functions without heavy imports, so that a dry run can show the plan on any machine. TRL's defaults are not the
papers' GRPO (no KL term, another loss normalisation, a linear schedule), so everything that matters is stated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safereason.errors import InputError
from safereason.files import json_type
from safereason.recipe.schema import DPO, GRPO, SFT

Arguments = dict[str, Any]
"""Keyword arguments of a configuration of TRL's."""


@dataclass(frozen=True)
class Batch:
    """The parts of one optimizer step: `per_device` x `accumulation` x `processes` sequences."""

    per_device: int
    accumulation: int
    processes: int

    @property
    def share(self) -> int:
        """Sequences a process and step."""
        return self.per_device * self.accumulation

    @property
    def sequences(self) -> int:
        """Sequences an optimizer step."""
        return self.per_device * self.accumulation * self.processes


def cut_batch(sequences: int, micro_batch_size: int, processes: int, key: str) -> Batch:
    """A step's sequences, cut into forward passes of at most `micro_batch_size` sequences.

    Raises:
        InputError: They cannot be cut evenly; the message names the section `key` and a size that fits.
    """
    share, rest = divmod(sequences, processes)
    if rest:
        raise InputError(f"{key}: {sequences} sequences a step cannot be shared by {processes} processes evenly")
    size = min(micro_batch_size, share)
    if share % size:
        fitting = max(divisor for divisor in range(1, size + 1) if share % divisor == 0)
        raise InputError(
            f"{key}.micro_batch_size: {micro_batch_size} does not divide the {share} sequences a process; try {fitting}"
        )
    return Batch(size, share // size, processes)


def check_left(kept: int, of: int, limit: int, key: str, batch: int = 1) -> None:
    """Refuses a limit that drops so many rows that the others fill no batch.

    Args:
        kept: Number of rows that are short enough.
        of: Number of all rows.
        limit: Most tokens of a kept row.
        key: The dotted key that sets the limit, for messages.
        batch: Rows of a batch.

    Raises:
        InputError: The kept rows fill no batch, or there are none.
    """
    # Where there were never enough rows, `total_steps` says so: the limit is not at fault.
    if kept < min(batch, of):
        left = ""
        if kept:
            left = f", and {kept} left fill no batch of {batch}"
        raise InputError(
            f"{key}: {of - kept} of {of} rows are longer than {limit} tokens{left}; raise it, or train on shorter rows"
        )


def total_steps(units: int, per_step: int, epochs: float, max_steps: int | None, key: str) -> int:
    """Optimizer steps: whole batches an epoch, times epochs, at most `max_steps`.

    Raises:
        InputError: There is not one whole batch.
    """
    steps = math.ceil(units // per_step * epochs)
    if steps == 0:
        raise InputError(f"{key}: {units} rows do not fill one batch of {per_step}; lower the batch or add data")
    if max_steps is None:
        return steps
    return min(steps, max_steps)


def sft_arguments(
    section: SFT, *, rows: int, seed: int, output_dir: str, processes: int = 1, cpu: bool = True, key: str = "sft"
) -> Arguments:
    """Keyword arguments of TRL's SFTConfig."""
    batch = cut_batch(section.batch_size, section.micro_batch_size, processes, key)
    owned = {
        **_shared_arguments(section, seed, output_dir, cpu),
        "max_steps": total_steps(rows, section.batch_size, section.epochs, section.max_steps, f"{key}.batch_size"),
        "per_device_train_batch_size": batch.per_device,
        "gradient_accumulation_steps": batch.accumulation,
        "max_length": section.max_tokens,
        # TRL's packing puts several rows into one, and cuts them; `training.shared_prefix` does neither.
        "packing": False,
        "padding_free": False,
        "completion_only_loss": True,
        # `total_steps` counts whole batches.
        "dataloader_drop_last": True,
    }
    return _with_extra(owned, section.extra, f"{key}.extra")


@dataclass(frozen=True)
class Schedule:
    """The course of a GRPO training: its steps, and the parts of each."""

    steps: int
    batch: Batch


def grpo_schedule(section: GRPO, *, prompts: int, processes: int = 1, key: str = "rl") -> Schedule:
    """Steps on so many prompts, and the rollouts of each, shared by the processes and cut into forward passes.

    Raises:
        InputError: The rollouts cannot be shared evenly, there is not one whole step, or a key has no meaning.
    """
    sequences = section.prompts_per_step * section.rollouts_per_prompt
    batch = cut_batch(sequences, section.micro_batch_size, processes, key)
    vllm_arguments(section, processes, key, ())
    step_key = f"{key}.prompts_per_step"
    steps = total_steps(prompts, section.prompts_per_step, section.epochs, section.max_steps, step_key)
    return Schedule(steps, batch)


def vllm_arguments(section: GRPO, processes: int, key: str, stop_token_ids: Sequence[int]) -> Arguments:
    """Keyword arguments of TRL's VLLMGeneration; none where our engine draws the rollouts.

    Args:
        section: The recipe's section.
        processes: Processes of the training.
        key: The section's dotted key, for messages.
        stop_token_ids: Ids that end a turn; by itself vLLM knows the end of a text alone.

    Raises:
        InputError: The processes cannot be divided into copies of vLLM, or `extra` holds what has no meaning here.
    """
    if section.rollouts == "engine":
        if section.extra:
            name = sorted(section.extra)[0]
            raise InputError(
                f"{key}.extra.{name}: has no meaning here; extra holds arguments of vLLM ({key}.rollouts=vllm-colocate "
                "or vllm-server), or with --backend verl keys of verl"
            )
        return {}
    extra = dict(section.extra)
    own_generation = extra.pop("generation_kwargs", {})
    if not isinstance(own_generation, dict):
        raise InputError(f"{key}.extra.generation_kwargs: a mapping is expected, not {json_type(own_generation)}")
    generation = {"stop_token_ids": list(stop_token_ids), **own_generation}
    arguments: Arguments = {
        "mode": section.rollouts.removeprefix("vllm-"),
        "temperature": section.sampling.temperature,
        "top_p": section.sampling.top_p,
        "top_k": section.sampling.top_k,
        "repetition_penalty": section.sampling.repetition_penalty,
        "max_completion_length": section.sampling.max_new_tokens,
        "generation_kwargs": generation,
        "trust_remote_code": False,
    }
    if section.rollouts == "vllm-server":
        arguments["server_base_url"] = section.vllm.server
        return _with_extra(arguments, extra, f"{key}.extra")
    copies, rest = divmod(processes, section.vllm.tensor_parallel)
    if rest or not copies:
        raise InputError(
            f"{key}.vllm.tensor_parallel: {section.vllm.tensor_parallel} GPUs a copy do not divide the {processes} "
            "processes of the training"
        )
    sequences = section.prompts_per_step * section.rollouts_per_prompt
    arguments["gpu_memory_utilization"] = section.vllm.memory_share
    arguments["tensor_parallel_size"] = section.vllm.tensor_parallel
    arguments["enable_sleep_mode"] = section.vllm.sleep
    arguments["max_model_length"] = section.max_prompt_tokens + section.sampling.max_new_tokens
    # Those of all the processes that one copy draws for.
    arguments["max_num_seqs"] = sequences // processes * section.vllm.tensor_parallel
    return _with_extra(arguments, extra, f"{key}.extra")


def dpo_arguments(
    section: DPO, *, pairs: int, seed: int, output_dir: str, processes: int = 1, cpu: bool = True, key: str = "rl"
) -> Arguments:
    """Keyword arguments of TRL's DPOConfig: DPO with RPO's likelihood term."""
    batch = cut_batch(section.batch_size, section.micro_batch_size, processes, key)
    owned = {
        **_shared_arguments(section, seed, output_dir, cpu),
        "max_steps": total_steps(pairs, section.batch_size, section.epochs, section.max_steps, f"{key}.batch_size"),
        "per_device_train_batch_size": batch.per_device,
        "gradient_accumulation_steps": batch.accumulation,
        # -log sigmoid(beta · margin) + rpo_alpha · the mean of -log p over the chosen completions' tokens.
        "loss_type": ["sigmoid", "sft"],
        "loss_weights": [1.0, section.rpo_alpha],
        "beta": section.beta,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "ld_alpha": None,
        "use_weighting": False,
        "sync_ref_model": False,
        "precompute_ref_log_probs": False,
        # Prompt and response are within their limits already, so that nothing is cut.
        "max_length": None,
        "padding_free": False,
        "dataloader_drop_last": True,
        "disable_dropout": True,
    }
    return _with_extra(owned, section.extra, f"{key}.extra")


def lr_scheduler(section: SFT | GRPO | DPO) -> str:
    """The section's course of the learning rate, by transformers' names."""
    # The one that is called `constant` has no warm-up.
    if section.lr_schedule == "constant" and section.warmup_ratio > 0:
        return "constant_with_warmup"
    return section.lr_schedule


def _shared_arguments(section: SFT | GRPO | DPO, seed: int, output_dir: str, cpu: bool) -> Arguments:
    # One fused kernel needs no copy of the weights while it works.
    optimizer = "adamw_torch_fused"
    if cpu:
        optimizer = "adamw_torch"
    return {
        "output_dir": output_dir,
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": lr_scheduler(section),
        "warmup_steps": section.warmup_ratio,  # below 1 it is a share of the steps
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
        "optim": optimizer,
        # Weights stay in fp32 (`training.model`): this is the precision of the arithmetic alone.
        "bf16": section.precision == "bf16" and not cpu,
        "use_cpu": cpu,
        "gradient_checkpointing": section.activation_checkpointing,  # the name that every transformers 5 takes
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "steps",
        "save_steps": section.save_steps,
        # Two, so that one is whole while the next is being written.
        "save_total_limit": 2,
        "logging_steps": 1,
        # Otherwise transformers logs a mean of earlier losses in place of NaN.
        "logging_nan_inf_filter": False,
        "report_to": "none",  # `training.callbacks` sends the metrics itself, to a tracker with the run's name
        "disable_tqdm": True,
        "trust_remote_code": False,
        "remove_unused_columns": False,  # the reward reads columns that the model does not
        "ddp_find_unused_parameters": False,  # there are none
    }


def _with_extra(owned: Arguments, extra: Arguments, key: str) -> Arguments:
    """The section's own arguments and those under `extra`.

    Raises:
        InputError: `extra` sets an argument that the section sets, or wants a model's own code to be run.
    """
    taken = sorted(owned.keys() & extra.keys())
    if taken:
        raise InputError(f"{key}.{taken[0]}: this is set by a field of the section itself; set it there")
    if "trust_remote_code" in (extra.get("model_init_kwargs") or {}):
        raise InputError(f"{key}.model_init_kwargs: a model's own code is never run; leave trust_remote_code out")
    return {**owned, **extra}
