"""Offloading: what of a training waits in the CPU's memory, and how.

- `optimizer`: AdamW's moments come to the device for the time of a step, in any layout. A step moves them twice.
- `all`: FSDP2's `CPUOffloadPolicy`. Weights, gradients, moments and the step itself are the CPU's; each pass takes the
  layers that it needs to the device. The launch decides on it (`training.layout`), since processes have to be joined in
  another way for it.
"""

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from safereason import processes
from safereason.console import say
from safereason.errors import InputError
from safereason.recipe.schema import Offload
from safereason.training import fit, launch
from safereason.training.fit import GIB, Gpus, Section, TrainingOnGpus
from safereason.training.shapes import shape_of


def chosen_offload(section: Section, key: str, location: str) -> Offload:
    """What a training offloads, the same in all of its processes; every process calls it.

    Args:
        section: The training's section.
        key: The section's dotted key.
        location: The model to start from.

    Raises:
        InputError: The section wants all offloaded, and the processes were not started for that.
    """
    if processes.offloads_model():
        return "all"
    if section.offload == "all":
        raise InputError(
            f"{key}.offload: all is for several GPUs under {launch.OPTION} {launch.LAUNCHER}:{launch.FSDP2_OFFLOAD}; "
            f"pass that, or {key}.offload=auto"
        )
    if section.offload != "auto":
        return section.offload
    return _least_that_fits(section, key, location)


def _least_that_fits(section: Section, key: str, location: str) -> Offload:
    """Nothing, or the optimizer where a step would not fit the smallest of the processes' GPUs."""
    if not torch.cuda.is_available():
        return "none"
    sizes: list[int] = gather_object([torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory])
    try:
        shape = shape_of(location)
    except InputError:
        # Nothing can be reckoned, so that the training is tried as it is.
        return "none"
    gpus = Gpus(processes.count(), min(sizes), f"{min(sizes) / GIB:.0f}GB")
    judges, reward_model, _ = fit.judge_memory(section)
    training = TrainingOnGpus(key, section, shape, gpus, judges, reward_model)
    sharded = processes.shards_model()
    offload = training.offload(section, sharded=sharded)
    if offload != "none":
        needed = training.peak(section, sharded=sharded)
        say(
            f"{key}: the optimizer's state waits in the CPU's memory between steps; with it a step would take "
            f"{needed / GIB:.1f} GiB of {gpus.room / GIB:.1f}"
        )
    return offload


def park_between_steps(optimizer: Optimizer) -> None:
    """Keeps an optimizer's moments in the CPU's memory but for the time of each step."""
    optimizer.register_step_pre_hook(_bring_back)
    optimizer.register_step_post_hook(_park)
    # A checkpoint is loaded onto the weights' device.
    optimizer.register_load_state_dict_post_hook(_park)


def _bring_back(optimizer: Optimizer, *_: object) -> None:
    for weight, state in optimizer.state.items():
        _move(state, weight.device)


def _park(optimizer: Optimizer, *_: object) -> None:
    for state in optimizer.state.values():
        _move(state, torch.device("cpu"))
    # vLLM and the reward model allocate by themselves, and cannot use what torch keeps for later.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _move(state: dict[str, object], device: torch.device) -> None:
    for name, value in list(state.items()):
        # A step's number is a scalar, which stays where the optimizer wants it.
        if isinstance(value, Tensor) and value.ndim > 0:
            state[name] = value.to(device)


class ParkOptimizer(TrainerCallback):
    """Has a trainer of transformers park its optimizer between steps."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: object = None,
        **given: object,
    ) -> None:
        """Called when the optimizer is there, and before the first step."""
        if isinstance(optimizer, AcceleratedOptimizer):
            park_between_steps(optimizer.optimizer)
