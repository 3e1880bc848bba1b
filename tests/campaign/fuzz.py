"""Damaged input on every surface: each is refused in one line, or read.

Inputs go through the command line in one process a batch, which is forked for it.
"""

import contextlib
import io
import itertools
import json
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.bench import new_folder, prepare
from campaign.surfaces import SURFACES, Input, Surface
from campaign.tally import MOST_KEPT, Tally
from campaign.worker import Job, Pool, joined, strings

CODES = (0, 1, 2, 3)
SECONDS_AN_INPUT = 60
"""Seconds of CPU after which an input counts as one that stops the program."""
MEMORY = 12 * 2**30
"""Bytes of address space of a process that reads damaged input."""
TOTAL = sum(surface.share for surface in SURFACES)


class Stuck(BaseException):
    """An input took longer than any may."""


def run(folder: Path, pool: Pool, tally: Tally, deadline: float, seed: int, inputs: int, only: str = "") -> None:
    """Reads `inputs` damaged inputs, shared out over the surfaces; `only` names one of them."""
    prepare(folder / "bench")
    chosen = [surface for surface in SURFACES if only in surface.name]
    _make_runs(folder, pool)
    total = sum(surface.share for surface in chosen)

    def carry_out(batch: tuple[Surface, int, int]) -> None:
        if time.monotonic() > deadline:
            tally.put_off(batch[2])
        else:
            _batch(batch, folder, pool, tally)

    pool.each(carry_out, _batches(chosen, inputs / total, seed))


def _batches(chosen: list[Surface], scale: float, seed: int) -> list[tuple[Surface, int, int]]:
    """Surfaces in turn, each with a seed and a number of inputs."""
    lists = []
    for surface in chosen:
        left, mine, number = max(1, round(surface.share * scale)), [], 0
        while left > 0:
            mine.append((surface, seed * 1000 + number, min(left, surface.batch)))
            left, number = left - surface.batch, number + 1
        lists.append(mine)
    rounds = itertools.zip_longest(*lists)
    return [batch for step in rounds for batch in step if batch is not None]


def _make_runs(folder: Path, pool: Pool) -> None:
    """The runs that are damaged: data, training, and two evaluations."""
    bench, root = folder / "bench", folder / "runs"
    if root.exists():
        return
    recipe = ("--recipe", bench / "tiny.yaml", "--root", root)
    for words in (
        ("data", "build", *recipe),
        ("sft", *recipe, "sft.max_steps=1"),
        ("eval", "xstest", *recipe, "--model", bench / "model", "--limit", 6, "eval.sampling.max_new_tokens=4"),
        ("eval", "harmbench", *recipe, "--model", bench / "model", "--limit", 6, "eval.sampling.max_new_tokens=4"),
    ):
        done = pool.run(Job(strings(*words), str(new_folder(folder, f"made-{time.monotonic_ns()}"))))
        if done.code:
            raise RuntimeError(done.err)


def _batch(batch: tuple[Surface, int, int], folder: Path, pool: Pool, tally: Tally) -> None:
    surface, seed, count = batch
    scratch = new_folder(folder, f"fuzz-{surface.name.replace(' ', '-')}-{seed}")
    argv = strings(surface.name, seed, count, folder / "bench", scratch)
    done = pool.run(Job(argv, str(scratch), function="campaign.fuzz:read_all", timeout=900.0))
    tally.tried(count)
    about = {"surface": surface.name, "seed": seed, "code": done.code, "err": done.err[-3000:]}
    faults: list[dict[str, Any]] = []
    if done.code != 0:
        at = (scratch / "at").read_text() if (scratch / "at").exists() else ""
        kind = f"{surface.name}: the process ends with {done.code}"
        faults.append({"column": "wrong_codes", "kind": kind, "about": {**about, "at": at}, "files": []})
    else:
        faults = json.loads(done.out.splitlines()[-1])
    for fault in faults:
        tally.fault(fault["column"], fault["kind"], fault["about"], map(Path, fault["files"]))
    shutil.rmtree(scratch, ignore_errors=True)


def read_all(name: str, seed: str, count: str, bench: str, folder: str) -> list[dict[str, Any]]:
    """The process of a batch: draws its inputs, reads them, and gives what went wrong."""
    (surface,) = (surface for surface in SURFACES if surface.name == name)
    signal.signal(signal.SIGVTALRM, _stop)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    faults: list[dict[str, Any]] = []
    kinds: dict[str, int] = {}
    for number in range(int(count)):
        place = Path(folder) / str(number)
        place.mkdir()
        case = surface.make(random.Random(f"{name}/{seed}/{number}"), place, Path(bench))
        Path(folder, "at").write_text(f"{number}: {joined(case.argv)}", errors="backslashreplace")
        is_kept = False
        for column, kind, output in _faults(surface, case, place):
            kinds[kind] = kinds.get(kind, 0) + 1
            is_kept = is_kept or kinds[kind] <= MOST_KEPT
            about = {"typed": joined(case.argv), "seed": f"{name}/{seed}/{number}", "output": output[-4000:]}
            faults.append({"column": column, "kind": kind, "about": about, "files": [str(f) for f in case.files]})
        if not is_kept:
            shutil.rmtree(place, ignore_errors=True)
    return faults


def _stop(number: int, frame: Any) -> None:
    raise Stuck


@dataclass
class Answer:
    """What a command printed and how it ended."""

    code: int | None
    out: str
    err: str
    raised: str = ""


def call(argv: tuple[str, ...]) -> Answer:
    """The command line in this process."""
    from safereason.cli import errors
    from safereason.cli.app import app

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True) for _ in "ab")
    code, raised = None, ""
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS_AN_INPUT)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = errors.guarded(lambda: app([*argv], standalone_mode=False, prog_name="safereason"))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except Stuck:
        raised = "Stuck"
    except BaseException as error:
        raised = f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        sys.stdin = io.StringIO()
    texts = [stream.buffer.getvalue().decode("utf-8", "replace") for stream in (out, err)]
    return Answer(code, *texts, raised)


def _faults(surface: Surface, case: Input, place: Path) -> Iterator[tuple[str, str, str]]:
    before = set(place.rglob("*"))
    answer = call(case.argv)
    what = " ".join(case.argv[:2])
    output = answer.err + answer.raised
    if answer.raised == "Stuck":
        yield "wrong_codes", f"{surface.name}: {what}: over {SECONDS_AN_INPUT} s of CPU", output
    elif answer.raised:
        yield "tracebacks", f"{surface.name}: {what}: raises {answer.raised.split(':')[0]}", output
    elif answer.code not in CODES:
        yield "wrong_codes", f"{surface.name}: {what}: code {answer.code}", output
    if "Traceback (most recent call last)" in answer.err + answer.out:
        yield "tracebacks", f"{surface.name}: {what}: prints a traceback", output
    if unexpected := re.search(r"error: unexpected (\w+)", answer.err):
        yield "tracebacks", f"{surface.name}: {what}: unexpected {unexpected[1]}", output
    if answer.code not in (0, 3, None) and not answer.err.strip():
        yield "wrong_codes", f"{surface.name}: {what}: code {answer.code} without a word", output
    if answer.code == 2 and case.out is not None and case.out.exists():
        yield "partial_files", f"{surface.name}: {what}: refused, and wrote", output
    left = {path for path in place.rglob("*") if path.name.endswith(".part")} - before
    if left:
        yield "partial_files", f"{surface.name}: {what}: leaves {sorted(left)[0].name}", output
