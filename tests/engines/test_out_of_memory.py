"""What counts as a lack of memory, and how a batch is halved."""

import pytest
import torch

from safereason.engines.memory import halves_of, is_out_of_memory, run_or_halve
from safereason.errors import StageFailed


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of range"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error: Exception, expected: bool):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize("room", [1, 2, 3, 9])
def test_halves_run_in_order_and_each_row_once(room: int):
    rows: list[int] = []
    sizes: list[int] = []

    def run(batch: list[int]) -> None:
        sizes.append(len(batch))
        if len(batch) > room:
            raise torch.OutOfMemoryError
        rows.extend(batch)

    run_or_halve(list(range(7)), run, halves_of, "shorten it")
    assert rows == list(range(7))
    assert sizes[0] == 7
    assert all(size <= room for size in sizes[-2:])


def test_a_single_row_that_does_not_fit_fails_the_stage_and_other_errors_pass():
    def run(batch: list[str]) -> None:
        raise torch.OutOfMemoryError if batch != ["a"] else RuntimeError("shapes differ")

    with pytest.raises(StageFailed, match=r"^shorten it$") as failure:
        run_or_halve(["b", "c"], run, halves_of, "shorten it")
    assert isinstance(failure.value.__cause__, torch.OutOfMemoryError)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_or_halve(["a"], run, halves_of, "shorten it")
