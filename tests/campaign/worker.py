"""A warm worker: a process that has everything imported and forks a child for each command.

A command that starts anew needs ten seconds of imports; a child of the worker begins at once. What imports alone can
break is tried with processes that are started anew (`cold`).
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

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


class Worker:
    """The side that asks."""

    def __init__(self, home: Path) -> None:
        """Starts the process; `home` takes its cache and temporary files."""
        home.mkdir(parents=True, exist_ok=True)
        (home / "tmp").mkdir(exist_ok=True)
        environment = environment_of(home)
        self.home = home
        self._process = subprocess.Popen(
            [sys.executable, "-m", "campaign.worker"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, job: Job) -> Done:
        """Runs one command to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self._process.wait()}")
        return Done(**json.loads(line))

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)


class Pool:
    """As many workers as there are cores to use; several threads may ask them at once."""

    def __init__(self, home: Path) -> None:
        """Starts them, each with a folder of its own under `home`."""
        self._all = [Worker(home / f"worker-{number}") for number in range(WORKERS)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._idle.put(worker)

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
            worker.close()


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


def _serve() -> None:
    """The worker itself: a job a line in, how it ended a line out."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warm.load()
    while line := sys.stdin.readline():
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
    _serve()
