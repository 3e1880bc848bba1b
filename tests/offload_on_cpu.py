"""`fsdp_on_cpu`, and beside it in the file `$OFFLOADED` a line for each module whose weights FSDP2 keeps on the CPU."""

import os
import runpy
from pathlib import Path

import fsdp_on_cpu
import torch.distributed.fsdp as fsdp
from torch import nn

from safereason.training import sharding

plain = fsdp.fully_shard


def noted(module: nn.Module, **given: object) -> nn.Module:
    if isinstance(given.get("offload_policy"), fsdp.CPUOffloadPolicy):
        with Path(os.environ["OFFLOADED"]).open("a") as file:
            file.write(f"{type(module).__name__}\n")
    return plain(module, **given)


if __name__ == "__main__":
    fsdp.fully_shard = sharding.fully_shard = noted
    # Memory can be pinned for a GPU alone, and accelerate's policy always has it pinned.
    fsdp.CPUOffloadPolicy.__init__.__defaults__ = (False,)
    runpy.run_path(fsdp_on_cpu.__file__, run_name="__main__")
