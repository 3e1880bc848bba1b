"""`guard classify --ray`: a folder of parquet in, a folder of parquet out."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safereason.console import progress
from safereason.errors import InputError, StageFailed

if TYPE_CHECKING:
    from safereason.guard.blocks import Block, Parts, Source
    from safereason.guard.classify import Asked, Tally
    from safereason.runs.directory import OnExisting

BATCH_ROWS = 1024
"""Rows of a block, where nobody says how many."""


@dataclass(frozen=True)
class Cluster:
    """Where it runs, and how the work is cut."""

    address: str | None
    workers: int | None
    batch_rows: int


def classify(
    asked: "Asked", source: str, out: str | None, on_existing: "OnExisting", limit: int | None, cluster: Cluster
) -> "tuple[Tally, int, float]":
    """Writes a part for each block that has none; the count of all rows, how many were there before, and the seconds.

    The seconds are those of the whole work, the start of Ray and the loading of guards included.
    """
    from safereason.guard.blocks import Parts, open_source
    from safereason.guard.bulk import Job, check_installed, run
    from safereason.runs.lock import locked

    check_installed()
    start = time.monotonic()
    read = open_source(source, asked.fields)
    blocks = read.blocks(cluster.batch_rows, limit)
    identity = {
        **asked.identity(),
        "rows_a_block": cluster.batch_rows,
        "rows": sum(block.rows for block in blocks),
        "input": read.names(),
    }
    folder = _folder(out, read)
    parts = Parts(folder, identity, read.columns.get(asked.fields.get("id", "id")))
    # A store of objects knows no lock. Two at once there pay twice, and write the same parts, each whole.
    with nullcontext() if "://" in folder else locked(Path(folder), "folder"):
        before = parts.finished(blocks) if on_existing != "overwrite" else None
        if before is not None and (on_existing == "refuse" or not before.counts["failed"]):
            return before, before.rows, 0.0
        parts.prepare(on_existing)
        tally, left = _before(parts, blocks)
        finished = tally.rows
        job = Job(asked, read, parts, blocks)
        with progress("blocks", len(blocks), len(blocks) - len(left)) as advance:
            for block in run(job, left, address=cluster.address, workers=cluster.workers) if left else ():
                written = parts.tally(block)
                if written is None:
                    raise StageFailed(
                        f"{parts.uri}: block {block.number} cannot be read; can every machine write there?"
                    )
                tally.merge(written)
                advance("")
    return tally, finished, time.monotonic() - start


def _before(parts: "Parts", blocks: "Sequence[Block]") -> "tuple[Tally, list[Block]]":
    """The count of the finished blocks, and those that are left: missing, or with rows that failed."""
    from safereason.guard.classify import Tally

    tally, left = Tally(), []
    for block, before in zip(blocks, parts.tallies(blocks), strict=True):
        if before is None or before.counts["failed"]:
            left.append(block)
        else:
            tally.merge(before)
    return tally, left


def _folder(out: str | None, source: "Source") -> str:
    if out is None:
        raise InputError("--ray: writes to a folder; name it with --out")
    folder = out.rstrip("/") if "://" in out else str(Path(out).resolve())
    if Path(folder).is_file():
        raise InputError(f"--out {out}: is a file; --ray writes to a folder")
    if f"{folder}/".startswith(f"{source.uri.rstrip('/')}/"):
        raise InputError(f"--out {out}: lies in what is read; name another")
    return folder
