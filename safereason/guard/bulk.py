"""Blocks of rows to verdicts on Ray Data: a pool of workers, each with a guard of its own, on one machine or many.

What passes through Ray is the number of a block: a worker reads the block's rows and writes its verdicts itself. So no
worker is handed more than it works on, and one that dies costs the block it was at, which another one does again.
"""

import logging
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from safereason.engines.open import REMOTE
from safereason.errors import InputError, StageFailed
from safereason.guard.base import Guard
from safereason.guard.blocks import Block, Parts, Source
from safereason.guard.classify import CHUNK, Asked, classify
from safereason.runs.records import Record

CORES = 4
"""Cores of a worker without a GPU, where nobody says how many workers there are to be."""
RETRIES = 3
"""How often a block is begun again that a worker died at."""
STORE_BYTES = 128 * 2**20
"""Shared memory of a Ray that is started here; only numbers of blocks pass through it."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""No usage statistics, and failures as exceptions only."""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""As on those systems, a Ray that is started here listens on 127.0.0.1 alone, and not to the whole network."""


@dataclass(frozen=True)
class Job:
    """What every worker is told."""

    asked: Asked
    source: Source
    parts: Parts
    blocks: Sequence[Block] = field(repr=False)


class Worker:
    """Classifies blocks with one guard, which it opens at the first."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @cached_property
    def _guard(self) -> Guard:
        return self._job.asked.open()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Writes the part of the block whose number is `item`; gives the number, and what of the input is wrong."""
        job, number = self._job, int(item["item"])
        block = job.blocks[number]
        records: list[Record] = []
        try:
            classify(
                self._guard,
                job.source.read(block, job.asked.fields),
                records.append,
                seed=job.asked.seed,
                threshold=job.asked.threshold,
                first_chunk=block.start // CHUNK,
            )
        except InputError as error:
            return {"number": number, "error": str(error)}
        job.parts.write(block, records)
        return {"number": number, "error": ""}


@dataclass(frozen=True)
class Pool:
    """Workers, and what each of them takes."""

    workers: int
    cpus: int
    gpus: int


def check_installed() -> None:
    """Refuses to begin where Ray is missing.

    Raises:
        InputError: It is.
    """
    if find_spec("ray") is None:
        raise InputError("--ray: Ray is not installed; pip install 'safereason[cluster]'")


def run(job: Job, left: Sequence[Block], *, address: str | None, workers: int | None) -> Iterator[Block]:
    """Classifies blocks and yields each once its part is written, in any order.

    Args:
        job: What is done with a block.
        left: Those that are not finished.
        address: Of a running cluster, such as `auto`; by default a Ray is started here and ended again.
        workers: How many; by default one for each GPU, and without GPUs one for every `CORES` cores.

    Raises:
        InputError: Ray does not answer, there are fewer GPUs or cores than workers, or a row or the
            guard cannot be read.
        StageFailed: A worker failed, or died more than `RETRIES` times at one block.
    """
    with _connected(address) as ray:
        pool = _pool(ray, workers, is_remote=job.asked.model.startswith(REMOTE))
        try:
            for row in _verdicts(ray, job, [block.number for block in left], pool):
                if row["error"]:
                    raise InputError(str(row["error"]))
                yield job.blocks[int(row["number"])]
        except ray.exceptions.RayError as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise StageFailed(f"a worker failed ({said[:300]}); --resume goes on after the finished blocks") from error


def _verdicts(ray: Any, job: Job, numbers: Sequence[int], pool: Pool) -> Iterator[dict[str, Any]]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    strategy = ray.data.ActorPoolStrategy(size=min(pool.workers, len(numbers)), max_tasks_in_flight_per_actor=2)
    # One number a block of Ray's, so that numbers are handed out one by one.
    items = ray.data.from_items(list(numbers), override_num_blocks=len(numbers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.60 announces that 2.64 takes `max_task_retries` in another way
        mapped = items.map(
            Worker,
            fn_constructor_args=(job,),
            compute=strategy,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            max_restarts=-1,
            max_task_retries=RETRIES,
        )
    return iter(mapped.iter_rows())


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    ray = _import_ray(QUIET if address else QUIET | LOOPBACK)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    ends = signal.getsignal(signal.SIGTERM)
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
        if "AF_UNIX" not in str(error):
            raise
        raise InputError(
            f"{tempfile.gettempdir()}: the name of this folder for temporary files is too long for Ray's "
            "sockets; set TMPDIR to a shorter one"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ends)  # Ray's own ends a command with 15, as if it were a code of ours
    try:
        yield ray
    finally:
        ray.shutdown()


def _import_ray(environment: dict[str, str]) -> Any:
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _pool(ray: Any, workers: int | None, *, is_remote: bool) -> Pool:
    there = ray.cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), 0 if is_remote else int(there.get("GPU", 0))
    most, count = gpus or cpus, workers or gpus or max(1, cpus // CORES)
    if count > most:
        raise InputError(f"--workers {count}: there are {most} {'GPUs' if gpus else 'cores'}, one for each worker")
    if gpus:
        return Pool(count, 1, 1)
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return Pool(count, max(1, min(cpus // count, largest)), 0)
