"""Warm workers: processes that have everything imported and fork a child for each command.

A command that starts anew needs ten seconds of imports; a child of a worker begins at once. The workers themselves are
forked from one process that imports. What imports alone can break is tried with processes started anew (`cold`).
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import warm

from campaign.faults import VARIABLE, Fault, install

TESTS = Path(__file__).parent.parent
WORKERS = 2
PATIENCE = 400.0
"""Seconds after which a command counts as one that does not end."""
GLANCE = 0.002
"""Seconds between two looks at whether a child has ended."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "NO_PROXY": "127.0.0.1",
    "OPENAI_API_KEY": "none",
    "COLUMNS": "120",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Job:
    """One command, and what happens to it."""

    argv: tuple[str, ...]
    folder: str
    """Where it runs, and where stdout and stderr are kept."""
    fault: Fault | None = None
    after: float | None = None
    """Seconds after which it gets `sends`."""
    sends: int = signal.SIGKILL
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: str = os.devnull
    timeout: float = PATIENCE
    function: str = ""
    """In place of the command: `module:function` of this package, called with `argv`."""


@dataclass(frozen=True)
class Done:
    """How it ended."""

    code: int
    """Exit code; minus the signal that ended it."""
    out: str
    err: str
    seconds: float
    ended: bool
    """False where it had to be stopped after `timeout`."""
    peak: int
    """Most memory it held, in KiB."""


@dataclass(frozen=True)
class Worker:
    """The side that asks: a pipe of jobs, and one of how they ended."""

    jobs: IO[str]
    ends: IO[str]

    def run(self, job: Job) -> Done:
        """Runs one command to its end."""
        self.jobs.write(json.dumps(asdict(job)) + "\n")
        self.jobs.flush()
        line = self.ends.readline()
        if not line:
            raise RuntimeError("a worker ended")
        return Done(**json.loads(line))


class Pool:
    """As many workers as there are cores to use; several threads may ask them at once."""

    def __init__(self, home: Path) -> None:
        """Starts them, each with a folder of its own under `home` for its cache and temporary files."""
        self._all: list[Worker] = []
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        theirs: list[int] = []
        words: list[str] = []
        for number in range(WORKERS):
            own = home / f"worker-{number}"
            (own / "tmp").mkdir(parents=True)
            jobs, to_worker = os.pipe()
            from_worker, ends = os.pipe()
            worker = Worker(os.fdopen(to_worker, "w"), os.fdopen(from_worker))
            self._all.append(worker)
            self._idle.put(worker)
            theirs += [jobs, ends]
            words += [str(own), str(jobs), str(ends)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "campaign.worker", *words],
            env=environment_of(home / "worker-0"),
            stdin=subprocess.DEVNULL,
            pass_fds=theirs,
        )
        for end in theirs:
            os.close(end)

    def run(self, job: Job) -> Done:
        """Runs one command to its end, once a worker is idle."""
        worker = self._idle.get()
        try:
            return worker.run(job)
        finally:
            self._idle.put(worker)

    def each(self, work: Callable[[Any], object], items: Iterable[Any]) -> None:
        """Does some work on every item, as many at a time as there are workers."""
        with ThreadPoolExecutor(WORKERS) as threads:
            list(threads.map(work, items))

    def close(self) -> None:
        """Ends them."""
        for worker in self._all:
            worker.jobs.close()
        self._process.wait(PATIENCE)
        for worker in self._all:
            worker.ends.close()


def environment_of(home: Path) -> dict[str, str]:
    """The environment of every command: nothing is read or written outside but what is installed."""
    path = os.pathsep.join((str(TESTS), str(TESTS.parent)))
    kept = {key: value for key, value in os.environ.items() if key not in ("OPENAI_BASE_URL", "SAFEREASON_RUNS")}
    return {
        **kept,
        **ENVIRONMENT,
        "PYTHONPATH": path,
        "SAFEREASON_CACHE": str(home / "cache"),
        "TMPDIR": str(home / "tmp"),
    }


def cold(job: Job, home: Path) -> Done:
    """Runs one command in a process that is started anew, with all that it starts itself."""
    environment = {**environment_of(home), **job.environment}
    if job.fault:
        environment[VARIABLE] = job.fault.to_json()
        environment["PYTHONPATH"] = os.pathsep.join((str(TESTS / "campaign" / "site"), environment["PYTHONPATH"]))
    started = time.monotonic()
    out, err = Path(job.folder) / "stdout", Path(job.folder) / "stderr"
    with open(job.stdin, "rb") as stdin, out.open("wb") as to_out, err.open("wb") as to_err:
        process = subprocess.Popen(
            [sys.executable, "-m", "safereason", *job.argv],
            cwd=job.folder,
            env=environment,
            stdin=stdin,
            stdout=to_out,
            stderr=to_err,
            start_new_session=True,
        )
    code, ended, peak = _watch(process.pid, job, started)
    process.returncode = code
    return _done(job, code, ended, started, peak)


def _watch(pid: int, job: Job, started: float) -> tuple[int, bool, int]:
    """Waits for a child, sends it the signal when its time has come, and stops it where it does not end."""
    is_sent, ended = job.after is None, True
    while True:
        ended_pid, status, usage = os.wait4(pid, os.WNOHANG)
        if ended_pid:
            # What it started, such as Ray's workers, is in its session, and ends with it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(status), ended, usage.ru_maxrss
        passed = time.monotonic() - started
        if not is_sent and job.after is not None and passed >= job.after:
            is_sent = True
            if job.sends == signal.SIGKILL:
                os.killpg(pid, signal.SIGKILL)
            else:
                os.kill(pid, job.sends)
        if passed > job.timeout:
            ended = False
            os.killpg(pid, signal.SIGKILL)
        time.sleep(GLANCE)


def _done(job: Job, code: int, ended: bool, started: float, peak: int) -> Done:
    texts = [(Path(job.folder) / name).read_text("utf-8", "replace") for name in ("stdout", "stderr")]
    return Done(code, *texts, time.monotonic() - started, ended, peak)


def _fork_workers(words: Sequence[str]) -> None:
    """Imports everything and forks the workers, of each of which its folder and its two pipes are given."""
    os.dup2(2, 1)
    warm.load()
    given = [(Path(words[i]), int(words[i + 1]), int(words[i + 2])) for i in range(0, len(words), 3)]
    for home, *pipes in given:
        if os.fork() == 0:
            # With the others' pipes open, a worker that ends would not be missed.
            for _, *others in given:
                for end in set(others) - set(pipes):
                    os.close(end)
            os.environ.update(environment_of(home))
            tempfile.tempdir = None  # of the first one's environment
            jobs, ends = pipes
            warm.end_with(partial(_serve, os.fdopen(jobs), os.fdopen(ends, "w")))
    for _, *pipes in given:
        for end in pipes:
            os.close(end)
    for _ in given:
        os.wait()


def _serve(jobs: IO[str], answers: IO[str]) -> None:
    """A worker itself: a job a line in, how it ended a line out."""
    while line := jobs.readline():
        fields = json.loads(line)
        if fields["fault"]:
            fields["fault"] = Fault(**fields["fault"])
        job = Job(**fields)
        for name in ("stdout", "stderr"):  # the child may be killed before it has opened them
            (Path(job.folder) / name).write_bytes(b"")
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            warm.end_with(partial(_become, job))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)  # in both, for neither knows who is first
        print(json.dumps(asdict(_done(job, *_watched(pid, job, started)))), file=answers, flush=True)


def _watched(pid: int, job: Job, started: float) -> tuple[int, bool, float, int]:
    code, ended, peak = _watch(pid, job, started)
    return code, ended, started, peak


def _become(job: Job) -> None:
    """The child: the command, from where the interpreter would begin with it."""
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    os.chdir(job.folder)
    for number, place, flags in (
        (0, job.stdin, os.O_RDONLY),
        (1, "stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(place, flags, 0o644)
        os.dup2(opened, number)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.environ.update(job.environment)
    sys.argv = ["safereason", *job.argv]
    if job.fault:
        install(job.fault)
    _call(job)


def _call(job: Job) -> None:
    if not job.function:
        from safereason.cli.app import main

        main()
        return
    import importlib

    module, _, name = job.function.partition(":")
    result: Any = getattr(importlib.import_module(module), name)(*job.argv)
    print(json.dumps(result))


def strings(*parts: object) -> tuple[str, ...]:
    """A command line of paths, numbers and texts."""
    return tuple(map(str, parts))


def joined(argv: Sequence[str]) -> str:
    """A command as a person would type it."""
    import shlex

    return shlex.join(("safereason", *argv))


if __name__ == "__main__":
    _fork_workers(sys.argv[1:])
