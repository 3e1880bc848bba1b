"""`safereason guard classify --ray`: verdicts on a folder of parquet files, as another folder of them."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safereason.console import progress
from safereason.errors import InputError, StageFailed

if TYPE_CHECKING:
    from safereason.guard.classify import ClassifySettings, StatusCounts
    from safereason.guard.parquet_input import Block, ParquetInput
    from safereason.guard.parquet_output import Parts
    from safereason.runs.directory import OnExisting

# Rows of a block by default: enough to keep a GPU busy, and few enough that a killed worker loses little.
BATCH_ROWS = 1024


@dataclass(frozen=True)
class RayCluster:
    """The workers of a classification on Ray, and the size of the blocks that they take."""

    address: str | None
    """A running cluster; None starts a Ray of its own."""
    workers: int | None
    """The number of guards; None is as many as the GPUs serve, or one per 4 cores."""
    batch_rows: int
    """Rows of a block."""
    gpus_per_worker: float | None = None
    """GPUs of each guard, or the share of one; None is 1."""


def classify_on_ray(
    request: "ClassifySettings",
    source: str,
    out: str | None,
    on_existing: "OnExisting",
    limit: int | None,
    cluster: RayCluster,
) -> "tuple[StatusCounts, int, float]":
    """Classifies the rows of a parquet file or folder. Each block without a finished part gets one.

    Returns:
        The count of all rows, the number of them that an earlier command finished, and the seconds of the whole work,
        the start of Ray and the loading of guards included.

    Raises:
        InputError: The input or the output cannot be used, or Ray is not installed.
        StageFailed: A block cannot be read back.
    """
    from safereason.guard.bulk import BulkJob, check_installed, run
    from safereason.guard.parquet_input import open_parquet_input
    from safereason.guard.parquet_output import Parts
    from safereason.runs.lock import locked

    check_installed()
    start = time.monotonic()
    parquet_input = open_parquet_input(source, request.fields)
    blocks = parquet_input.blocks(cluster.batch_rows, limit)
    identity = {
        **request.identity(),
        "rows_a_block": cluster.batch_rows,
        "rows": sum(block.rows for block in blocks),
        "input": parquet_input.names(),
    }
    folder = _output_folder(out, parquet_input)
    parts = Parts(folder, identity, parquet_input.columns.get(request.fields.get("id", "id")))
    # An object store has no locks. Two commands at once would pay twice there, but write the same parts, each whole.
    lock = nullcontext() if "://" in folder else locked(Path(folder), "folder")
    with lock:
        if on_existing != "overwrite":
            earlier = parts.finished(blocks)
            # A finished folder is its result. Only `--resume` asks the guard about failed rows again.
            if earlier is not None and (on_existing == "refuse" or not earlier.counts["failed"]):
                return earlier, earlier.rows, 0.0
        parts.prepare(on_existing)
        tally, blocks_left = _split_finished(parts, blocks)
        rows_before = tally.rows
        with progress("blocks", len(blocks), len(blocks) - len(blocks_left)) as advance:
            # Without work, Ray need not be started.
            if blocks_left:
                job = BulkJob(request, parquet_input, parts, blocks)
                finished = run(
                    job,
                    blocks_left,
                    address=cluster.address,
                    workers=cluster.workers,
                    gpus_per_worker=cluster.gpus_per_worker,
                )
                for block in finished:
                    tally.merge(_tally_of_part(parts, block))
                    advance("")
    return tally, rows_before, time.monotonic() - start


def _tally_of_part(parts: "Parts", block: "Block") -> "StatusCounts":
    """The count of a block's rows, read from the part that a worker wrote.

    Raises:
        StageFailed: The part is not there. A worker on another machine may write to a folder of its own.
    """
    tally = parts.tally(block)
    if tally is None:
        raise StageFailed(f"{parts.uri}: block {block.number} cannot be read; can every machine write there?")
    return tally


def _split_finished(parts: "Parts", blocks: "Sequence[Block]") -> "tuple[StatusCounts, list[Block]]":
    """The count of the finished blocks, and the blocks left to do: those without a part or with failed rows."""
    from safereason.guard.classify import StatusCounts

    tally = StatusCounts()
    blocks_left: list[Block] = []
    for block, tally_of_block in zip(blocks, parts.tallies(blocks), strict=True):
        if tally_of_block is None or tally_of_block.counts["failed"]:
            blocks_left.append(block)
        else:
            tally.merge(tally_of_block)
    return tally, blocks_left


def _output_folder(out: str | None, parquet_input: "ParquetInput") -> str:
    """The folder for the parts, as an address or a whole path.

    Raises:
        InputError: There is none, it is a file, or it lies inside the input.
    """
    if out is None:
        raise InputError("--ray: writes to a folder; name it with --out")
    folder = out.rstrip("/") if "://" in out else str(Path(out).resolve())
    if Path(folder).is_file():
        raise InputError(f"--out {out}: is a file; --ray writes to a folder")
    # Its parts would be read as input by the next command.
    if f"{folder}/".startswith(f"{parquet_input.uri.rstrip('/')}/"):
        raise InputError(f"--out {out}: lies in what is read; name another")
    return folder
