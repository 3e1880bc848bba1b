"""safereason under FSDP2 on CPUs, which accelerate knows for GPUs only: it is told that the CPUs are GPUs.

Started by `accelerate launch`, with the command line of `safereason` after it.
"""

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from safereason.cli.app import main

if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    main()
