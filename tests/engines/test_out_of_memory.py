"""What counts as a lack of memory, and how a batch is halved."""

import fake_gpu
import pytest
import torch

from safereason.engines.memory import halves_of, held_by_others, is_device_busy, is_out_of_memory, run_or_halve
from safereason.errors import StageFailed

NO_HANDLE = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
BUSY = RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("NCCL error: ncclUnhandledCudaError, Cuda failure 2 'out of memory'"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"), True),
        (NO_HANDLE, False),
        (BUSY, False),
        (StageFailed("out of memory for a single prompt"), False),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of range"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error: Exception, expected: bool):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(("free", "expected"), [(0.1, True), (20, False)])
def test_a_library_that_cannot_begin_lacks_memory_where_the_gpu_is_full(
    monkeypatch: pytest.MonkeyPatch, free: float, expected: bool
):
    fake_gpu.install(monkeypatch, free=free)
    assert is_out_of_memory(NO_HANDLE) is expected
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED")) is expected


def test_a_busy_gpu_is_told_from_a_full_one():
    assert is_device_busy(BUSY)
    assert not is_device_busy(torch.OutOfMemoryError())


def test_memory_that_others_hold_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch):
    assert held_by_others() == ""
    fake_gpu.install(monkeypatch, free=45)
    assert held_by_others() == "", "what this process and CUDA hold is nobody else's"
    fake_gpu.install(monkeypatch, free=5)
    assert held_by_others() == (
        "other processes hold 41.0 of 48.0 GiB of GPU 0: end them, or name another GPU in CUDA_VISIBLE_DEVICES"
    )

    def run(batch: list[int]) -> None:
        raise MemoryError

    with pytest.raises(StageFailed, match=r"^shorten it; other processes hold 41\.0 of 48\.0 GiB"):
        run_or_halve([1, 2], run, halves_of, "shorten it")


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
