"""The processes of a training that a launcher started, and whether a process still runs.

Only the first process of a training writes, and the others wait for it. Without a launcher there is one process.
Launchers describe the processes in the environment variables of `torchrun`.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

# Torch's own limit is 10 minutes for NCCL. The first process may sample or judge for hours while the others wait. Where
# it fails, the launcher ends all of them.
PATIENCE = timedelta(days=1)


def is_launched() -> bool:
    """Whether a launcher started this process as one of a training's."""
    return {"LOCAL_RANK", "RANK", "WORLD_SIZE"} <= os.environ.keys()


def count() -> int:
    """The number of processes, over all machines."""
    if not is_launched():
        return 1
    return int(os.environ["WORLD_SIZE"])


def index() -> int:
    """The rank of this process, from 0."""
    if not is_launched():
        return 0
    return int(os.environ["RANK"])


def is_main() -> bool:
    """Whether this process is the first one, which writes."""
    return index() == 0


def shards_model() -> bool:
    """Whether each process holds only a part of the model (FSDP, DeepSpeed)."""
    return uses_deepspeed() or _is_true("ACCELERATE_USE_FSDP")


def offloads_model() -> bool:
    """Whether FSDP keeps each process's part of the model in the CPU's memory."""
    return _is_true("ACCELERATE_USE_FSDP") and _is_true("FSDP_OFFLOAD_PARAMS")


def uses_deepspeed() -> bool:
    """Whether DeepSpeed holds the model."""
    return _is_true("ACCELERATE_USE_DEEPSPEED")


def join() -> None:
    """Makes this process one of the launcher's processes, with a GPU of its own.

    It has to be called before a model is loaded: all of them would load it onto the first GPU.
    """
    if count() > 1:
        import torch
        from accelerate import PartialState

        die_with_parent()
        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def wait() -> None:
    """Returns when every process has called it."""
    if count() > 1:
        from accelerate import PartialState

        join()
        PartialState().wait_for_everyone()


def by_main(work: Callable[[], object]) -> None:
    """Does some work in the first process, while the others wait."""
    if is_main():
        work()
    wait()


def is_alive(number: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        # Signal 0 is sent to nobody; it only checks that the process exists.
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        # No process can have a number that does not fit into 32 bits.
        return False
    except OSError:
        # The process is another user's: it exists, but may not be signalled.
        return True
    return True


def die_with_parent() -> None:
    """Makes the system kill this process when the one that started it dies.

    A process that gets SIGKILL cannot end those that it started. Each has a session of its own and would go on, with
    its GPU.
    """
    # PR_SET_PDEATHSIG of Linux's prctl(2).
    set_parent_death_signal = 1
    # Other systems have no prctl.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").lower() == "true"
