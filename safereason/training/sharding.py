"""The model that is trained, laid out on the processes: whole in each of them (DDP), or in parts (FSDP2)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from safereason import processes
from safereason.training.model import without_adapters


def lay_out(model: PreTrainedModel, accelerator: Accelerator, *, bf16: bool) -> nn.Module:
    """The module to call in place of the model: the model itself, DDP's wrapper of it, or the model in parts.

    Args:
        model: The model being trained, or a frozen reference model.
        accelerator: The processes and their devices.
        bf16: Whether the passes are in bf16, by autocast; FSDP2 then gathers the weights of blocks in bf16, too.
    """
    if processes.shards_model():
        shard(model, bf16=bf16)
        return model
    model.to(accelerator.device)
    has_gradients = any(weight.requires_grad for weight in model.parameters())
    if accelerator.num_processes == 1 or not has_gradients:
        return model
    devices = [accelerator.device] if accelerator.device.type == "cuda" else None
    # Gradients lie in DDP's buckets, and not beside them. Buffers are never trained here, so that none is sent around.
    return nn.parallel.DistributedDataParallel(
        model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
    )


def shard(model: PreTrainedModel, *, bf16: bool) -> None:
    """Shares a model out among all processes by FSDP2, block by block; what is left is gathered once a pass.

    Each process's part stays in the CPU's memory where the launch says so.

    With bf16 the weights of a block are gathered in bf16, and the rest is autocast's, as without FSDP2: between blocks
    states stay in fp32, and so do outputs and the reduction of gradients. accelerate's own policy has all of them in
    bf16, with which small gradients are lost and the KL term stands still.
    """
    precision = MixedPrecisionPolicy()
    if bf16:
        precision = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    offload = OffloadPolicy()
    if processes.offloads_model():
        # Memory that is not pinned would be copied once more on its way.
        offload = CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
    # A frozen model has no backward pass that would use its weights again.
    is_frozen = not any(weight.requires_grad for weight in model.parameters())
    causal = without_adapters(model)
    blocks = set(causal._no_split_modules or ())
    for module in causal.modules():
        if type(module).__name__ in blocks:
            for norm in filter(_is_norm, module.modules()):
                # Around 1 bf16 is so coarse that a norm's small updates would not be seen.
                fully_shard(norm, reshard_after_forward=is_frozen, offload_policy=offload)
            fully_shard(module, mp_policy=precision, offload_policy=offload)
    # The last hidden states are projected by the root's own weights, in the backward pass again: they stay gathered.
    fully_shard(model, reshard_after_forward=is_frozen, offload_policy=offload)


def reduce_in_fp32(accelerator: Accelerator) -> None:
    """Has FSDP2 reduce gradients and return outputs in fp32 in a trainer of transformers; other layouts do so anyway.

    With bf16, accelerate's own policy has both in bf16.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and accelerator.mixed_precision == "bf16":
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
        )


def _is_norm(module: nn.Module) -> bool:
    """Whether a module has weights of its own, and none of them is a matrix."""
    weights = list(module.parameters(recurse=False))
    return bool(weights) and all(weight.ndim == 1 for weight in weights)


@contextmanager
def unsharded(model: PreTrainedModel) -> Iterator[None]:
    """Gathers an FSDP2 model in every process, which may then run it any number of times; leaves others alone."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in shards:
        module.unshard()
        # Processes run the model a different number of times, so that none may wait for the others' parts.
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in shards:
            # The root's own weights and the norms stay gathered between a forward pass and its backward pass.
            reshards = id(module) != id(model) and not _is_norm(module)
            module.set_reshard_after_forward(reshards, recurse=False)
            module.reshard()


@contextmanager
def gradients_kept_local(module: nn.Module, is_last: bool) -> Iterator[None]:
    """Context of one of several backward passes: DDP reduces gradients in the last one alone.

    FSDP2 reduces in each of them: gradients that wait would be whole on every process.
    """
    if is_last or not isinstance(module, nn.parallel.DistributedDataParallel):
        yield
        return
    with module.no_sync():
        yield


def clip_gradients(model: nn.Module, most: float) -> float:
    """Scales the gradients down to a norm of at most `most`, and returns their norm before, over all processes."""
    norm: Tensor = nn.utils.clip_grad_norm_(model.parameters(), most)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    return float(norm)
