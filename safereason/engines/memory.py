"""A lack of memory: how it is recognised, and the loop that halves a batch until it fits.

Nothing heavy is imported here before a batch has failed, so that the command line can use the test, too.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from safereason.errors import StageFailed

Batch = TypeVar("Batch")
Member = TypeVar("Member")


def is_out_of_memory(error: Exception) -> bool:
    """Whether this machine's memory or its GPU's is full."""
    if isinstance(error, MemoryError):
        return True
    # Torch's error is recognised by its name: importing torch takes seconds, and more memory.
    if type(error).__name__ == "OutOfMemoryError":
        return True
    # On a CPU, torch reports the lack of memory as a plain RuntimeError.
    return "allocate memory" in str(error)


def run_or_halve(
    batch: Batch, run: Callable[[Batch], None], halve: Callable[[Batch], Sequence[Batch]], advice: str
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
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            halves = halve(current)
            if not halves:
                raise StageFailed(advice) from error
        # Outside of the `except`: the exception holds the failed batch's tensors until it ends.
        _release_cached_memory()
        waiting[:0] = halves


def halves_of(members: Sequence[Member]) -> list[list[Member]]:
    """The first and the second half of a batch; none where it has a single member."""
    if len(members) < 2:
        return []
    middle = len(members) // 2
    return [list(members[:middle]), list(members[middle:])]


def _release_cached_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
