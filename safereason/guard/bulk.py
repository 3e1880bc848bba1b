"""Classification on Ray Data: a pool of workers, each with a guard of its own, on one machine or many.

Only block numbers pass through Ray. A worker reads its block and writes its verdicts itself, so the driver holds no
rows. If a worker dies, only its block is lost, and another worker does it again.
"""

import logging
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from types import ModuleType
from typing import TypedDict

from safereason.engines import vllm
from safereason.errors import InputError, StageFailed
from safereason.guard.base import Guard
from safereason.guard.classify import CHUNK_ROWS, ClassifyOutput, ClassifySettings, classify
from safereason.guard.parquet_input import Block, ParquetInput
from safereason.guard.parquet_output import Parts
from safereason.runs.records import Record

CORES = 4
"""CPU cores per worker without a GPU, if the number of workers is not given."""
RETRIES = 3
"""Restarts of a block whose worker died."""
STORE_BYTES = 128 * 2**20
"""Shared memory of a local Ray. It is small, because only block numbers pass through it."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""Settings against usage statistics and log lines; failures are raised as exceptions."""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Setting that makes a local Ray listen on 127.0.0.1 only, as on Windows and macOS, not on the whole network."""


@dataclass(frozen=True)
class BulkJob:
    """Guard, input and output of a classification; every worker gets a copy."""

    settings: ClassifySettings
    input: ParquetInput
    parts: Parts
    blocks: Sequence[Block] = field(repr=False)


class BlockResult(TypedDict):
    """The number of a block, and an error in its input; empty without one."""

    number: int
    error: str


class Worker:
    """A classifier of blocks with one guard, which it opens at the first block."""

    def __init__(self, job: BulkJob, gpus: float = 0) -> None:
        """Takes the job, and the GPUs that Ray shows to this worker: several, one, or a share of one."""
        self._job = job
        self._gpus = gpus

    @cached_property
    def _guard(self) -> Guard:
        if self._gpus:
            vllm.use_gpus(self._gpus)
        return self._job.settings.open()

    def __call__(self, item: Mapping[str, int]) -> BlockResult:
        """Classifies the block with the number `item["item"]` and writes its part."""
        job = self._job
        number = int(item["item"])
        block = job.blocks[number]
        records: list[Record] = []
        try:
            classify(
                self._guard,
                job.input.read(block, job.settings.fields),
                ClassifyOutput(records.append),
                seed=job.settings.seed,
                threshold=job.settings.threshold,
                first_chunk=block.start // CHUNK_ROWS,
            )
        except InputError as error:
            # Returned, not raised: Ray would take an exception for a failure of the worker and try again.
            return {"number": number, "error": str(error)}
        job.parts.write(block, records)
        return {"number": number, "error": ""}


@dataclass(frozen=True)
class Pool:
    """The number of workers, and the CPU cores and GPUs of each."""

    workers: int
    cpus: int
    gpus: float


def check_installed() -> None:
    """Refuses to begin without Ray.

    Raises:
        InputError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise InputError("--ray: Ray is not installed; pip install 'safereason[cluster]'")


def run(
    job: BulkJob,
    left: Sequence[Block],
    *,
    address: str | None,
    workers: int | None,
    gpus_per_worker: float | None = None,
) -> Iterator[Block]:
    """The given blocks, each as soon as its part is written, in any order.

    Args:
        job: Guard, input and output.
        left: Blocks that are not finished.
        address: Address of a running cluster, such as `auto`. By default a local Ray is started, and ended again.
        workers: Number of workers; by default as many as the GPUs serve, and without GPUs one per `CORES` cores.
        gpus_per_worker: GPUs of each worker, or the share of one that several workers have; by default 1.

    Raises:
        InputError: Ray does not answer, there are too few GPUs or cores, or a row or the guard cannot be read.
        StageFailed: A worker failed, or died more than `RETRIES` times at one block.
    """
    with _connected_ray(address) as ray:
        pool = _pool_of(ray, workers, gpus_per_worker, is_remote=job.settings.model.is_remote)
        try:
            for result in _block_results(ray, job, [block.number for block in left], pool):
                if result["error"]:
                    raise InputError(str(result["error"]))
                yield job.blocks[int(result["number"])]
        except ray.exceptions.RayError as error:
            # Ray's text is a remote traceback. Its last line holds the exception.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise StageFailed(
                f"a worker failed ({reason[:300]}); --resume goes on after the finished blocks"
            ) from error


def _block_results(ray: ModuleType, job: BulkJob, numbers: Sequence[int], pool: Pool) -> Iterator[BlockResult]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    strategy = ray.data.ActorPoolStrategy(size=min(pool.workers, len(numbers)), max_tasks_in_flight_per_actor=2)
    # One number per block of Ray's own, so that numbers are handed out one by one.
    items = ray.data.from_items(list(numbers), override_num_blocks=len(numbers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.60 announces that 2.64 takes `max_task_retries` in another way
        mapped = items.map(
            Worker,
            fn_constructor_args=(job, pool.gpus),
            compute=strategy,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            max_restarts=-1,
            max_task_retries=RETRIES,
        )
    return iter(mapped.iter_rows())


@contextmanager
def _connected_ray(address: str | None) -> Iterator[ModuleType]:
    """Ray, connected to the cluster at an address, or to a local one that ends with the block."""
    ray = _import_ray(QUIET if address else QUIET | LOOPBACK)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _connect_ray(ray, address)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own ends a command with 15, as if it were a code of ours
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect_ray(ray: ModuleType, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init("local", include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
        else:
            ray.init(address, **quiet)
    except ConnectionError as error:
        raise InputError(
            f"--ray-address {address}: no Ray answers there; start it, set RAY_AUTH_MODE=token "
            "where it asks for a token, or leave the option out"
        ) from error
    except OSError as error:
        # The path of a Unix socket holds about 100 bytes, and Ray puts its sockets far below the temporary folder.
        if "AF_UNIX" not in str(error):
            raise
        raise InputError(
            f"{tempfile.gettempdir()}: the name of this folder for temporary files is too long for Ray's "
            "sockets; set TMPDIR to a shorter one"
        ) from error


def _import_ray(environment: dict[str, str]) -> ModuleType:
    # Ray reads these variables when it is imported. The user's own values win.
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    module: ModuleType = ray
    return module


def _pool_of(ray: ModuleType, workers: int | None, gpus_per_worker: float | None, *, is_remote: bool) -> Pool:
    """The workers that the machines of a cluster have room for.

    Raises:
        InputError: There are fewer GPUs or cores than are wanted.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    gpus = [int(machine.get("GPU", 0)) for machine in machines]
    if is_remote:
        gpus = []  # the model runs on its server, so a worker only waits for it
    if gpus_per_worker is not None and not any(gpus):
        raise InputError(f"--gpus-per-worker {gpus_per_worker:g}: no machine of the Ray has a GPU; leave it out")
    if any(gpus):
        share = gpus_per_worker or 1.0
        # A worker runs on one machine, and a share is one of a single GPU.
        most = sum(_workers_on(machine, share) for machine in gpus)
        if not most:
            raise InputError(f"--gpus-per-worker {share:g}: the largest machine has {max(gpus)} GPUs; name no more")
        if workers and workers > most:
            raise InputError(f"--workers {workers}: the GPUs serve {most}, with {share:g} for each; name no more")
        return Pool(workers or most, 1, share)
    count = workers or max(1, sum(cores) // CORES)
    if count > sum(cores):
        raise InputError(f"--workers {count}: there are {sum(cores)} cores, one for each worker")
    # A worker runs on one machine, so it cannot get more cores than the largest machine has.
    return Pool(count, max(1, min(sum(cores) // count, max(cores))), 0)


def _workers_on(gpus: int, share: float) -> int:
    """Workers that a machine's GPUs serve, each with several of them, one, or a share of one."""
    if share >= 1:
        return gpus // int(share)
    # Rounded, because a tenth ten times is a little less than one in binary.
    return gpus * int(round(1 / share, 6))
