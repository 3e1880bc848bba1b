"""A lack of memory: how it is recognised, what it is said of, and the loop that halves a batch until it fits.

Nothing heavy is imported here before a batch has failed, so that the command line can use the tests, too.
"""

import gc
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TypeVar

from safereason.errors import StageFailed

BatchT = TypeVar("BatchT")
MemberT = TypeVar("MemberT")

OUT_OF_MEMORY = ("out of memory", "allocate memory", "_STATUS_ALLOC_FAILED")
"""Parts of torch's errors about a full memory: of CUDA, ROCm and NCCL, of a CPU, and of cuBLAS and cuDNN."""
NO_HANDLE = ("CUBLAS_STATUS_NOT_INITIALIZED", "CUDNN_STATUS_NOT_INITIALIZED", "CUSOLVER_STATUS_NOT_INITIALIZED")
"""Errors of a CUDA library that could not begin. A full memory is one reason for it, and a wrong driver another."""
LEAST_FOR_HANDLES = 2**29
"""Bytes of free memory from which on a CUDA library can begin."""
LEAST_HELD = 2 * 2**30
"""Bytes from which on other processes are named: what CUDA itself takes for this process counts among theirs."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether this machine's memory or its GPU's is full."""
    if isinstance(error, MemoryError):
        return True
    # Torch's errors derive from this class. Importing torch to name them takes seconds, and more memory.
    if not isinstance(error, RuntimeError):
        return False
    if type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    if any(part in text for part in NO_HANDLE):
        return _gpu_is_full()
    return any(part in text for part in OUT_OF_MEMORY)


def is_device_busy(error: Exception) -> bool:
    """Whether another process has a GPU for itself, as CUDA's exclusive mode allows."""
    return isinstance(error, RuntimeError) and "busy or unavailable" in str(error)


def held_by_others() -> str:
    """The advice where other processes hold much of the GPU's memory; empty where they do not, or there is no GPU."""
    torch = _torch_with_gpu()
    if torch is None:
        return ""
    try:
        free, total = torch.cuda.mem_get_info()
        others = total - free - torch.cuda.memory_reserved()
        index = torch.cuda.current_device()
    except RuntimeError:
        # Nothing more can be asked of a GPU that has failed.
        return ""
    if others < LEAST_HELD:
        return ""
    return (
        f"other processes hold {others / 2**30:.1f} of {total / 2**30:.1f} GiB of GPU {index}: end them, or name "
        "another GPU in CUDA_VISIBLE_DEVICES"
    )


def run_or_halve(
    batch: BatchT, run: Callable[[BatchT], None], halve: Callable[[BatchT], Sequence[BatchT]], advice: str
) -> None:
    """Runs a batch. One that does not fit in memory is halved, and its halves run in order.

    Args:
        batch: Rows of any form.
        run: Does the work of a batch, and keeps its results.
        halve: The halves of what is left of a batch that did not fit; none where that is a single row.
        advice: The message where a single row does not fit.

    Raises:
        StageFailed: A single row does not fit.
    """
    waiting = [batch]
    while waiting:
        current = waiting.pop(0)
        try:
            run(current)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            halves = halve(current)
            if not halves:
                raise StageFailed("; ".join(filter(None, (advice, held_by_others())))) from error
        # Outside of the `except`: the exception holds the failed batch's tensors until it ends.
        _release_cached_memory()
        waiting[:0] = halves


def release() -> None:
    """Gives a GPU's memory back that was a model's: one that nothing refers to any more."""
    if _torch_with_gpu() is not None:
        # Hooks of a model may refer back to it. Then it is freed only once the collector has found the circle.
        gc.collect()
        _release_cached_memory()


def halves_of(members: Sequence[MemberT]) -> list[list[MemberT]]:
    """The first and the second half of a batch; none where it has a single member."""
    if len(members) < 2:
        return []
    middle = len(members) // 2
    return [list(members[:middle]), list(members[middle:])]


def _torch_with_gpu() -> ModuleType | None:
    """The module torch, where it was imported and has a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return torch


def _gpu_is_full() -> bool:
    """Whether there is a GPU with too little memory for a CUDA library to begin."""
    torch = _torch_with_gpu()
    if torch is None:
        return False
    try:
        free, _ = torch.cuda.mem_get_info()
    except RuntimeError as error:
        return any(part in str(error) for part in OUT_OF_MEMORY)
    return int(free) < LEAST_FOR_HANDLES


def _release_cached_memory() -> None:
    torch = _torch_with_gpu()
    if torch is not None:
        torch.cuda.empty_cache()
