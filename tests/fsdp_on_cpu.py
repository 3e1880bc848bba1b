"""safereason on CPUs as on GPUs: FSDP2, which accelerate knows for GPUs only, and bf16 where the recipe says so.

With `ACCELERATES_POLICY=1` FSDP2 has the mixed precision that accelerate gives it.
It takes the command line of `safereason`, in the environment of `accelerate launch`.
"""

import os

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from safereason.cli.app import main
from safereason.training import grpo, sharding

if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    grpo.precision_here = lambda precision: precision
    if os.environ.get("ACCELERATES_POLICY"):
        half = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.bfloat16, output_dtype=torch.bfloat16)
        sharding.MixedPrecisionPolicy = lambda *_, **__: half
        sharding.fully_shard = lambda module, **given: fully_shard(module, **{**given, "mp_policy": half})
    main()
