"""The processes that a launcher started this command in: the first alone writes, and the others wait for it.

Without a launcher there is one. What a launcher says stands in the environment, in the words of `torchrun`.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

PATIENCE = timedelta(days=1)
"""How long processes wait for the first: it may be drawing or scoring; where it fails, the launcher ends them all."""


def count() -> int:
    """How many there are, over all machines."""
    return int(os.environ["WORLD_SIZE"]) if _is_launched() else 1


def index() -> int:
    """Which one this is, from 0."""
    return int(os.environ["RANK"]) if _is_launched() else 0


def is_main() -> bool:
    """Whether this is the one that writes."""
    return index() == 0


def shards_model() -> bool:
    """Whether each process holds a part of the model only (FSDP, DeepSpeed)."""
    return uses_deepspeed() or _is_set("ACCELERATE_USE_FSDP")


def uses_deepspeed() -> bool:
    """Whether DeepSpeed holds the model."""
    return _is_set("ACCELERATE_USE_DEEPSPEED")


def join() -> None:
    """Makes this process one of several, with a GPU of its own; to be called before a model is loaded."""
    if count() > 1:
        import torch
        from accelerate import PartialState

        _end_with_launcher()
        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def wait() -> None:
    """Returns when every process has called it."""
    if count() > 1:
        from accelerate import PartialState

        join()
        PartialState().wait_for_everyone()


def by_main(work: Callable[[], object]) -> None:
    """Has the first process do some work, for which the others wait."""
    if is_main():
        work()
    wait()


def _end_with_launcher() -> None:
    """A launcher that is killed outright would leave its processes running, each in a session of its own."""
    set_parent_death_signal = 1
    with suppress(OSError, AttributeError):  # elsewhere than on Linux
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() == "true"


def _is_launched() -> bool:
    return {"LOCAL_RANK", "RANK", "WORLD_SIZE"} <= os.environ.keys()
