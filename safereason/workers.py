"""Workers: processes of this program that share the items of one piece of work.

Each has an environment of its own, such as one that shows it other GPUs. Only the process that started them writes:
results come back through a pipe, and a worker dies with that process, whichever way it ends.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Generic, TypeVar

from safereason import processes
from safereason.errors import StageFailed, one_line

SetupT = TypeVar("SetupT")
ItemT = TypeVar("ItemT")
PartT = TypeVar("PartT")
Handle = Callable[[ItemT, Callable[[PartT], None]], None]
"""Works at one item, and calls a function with each part of its result."""

PROGRAM = "from safereason.workers import serve; serve()"
SECONDS_TO_END = 60.0
"""Patience with a worker that has nothing left to do and lets go of its models."""


def work(
    begin: Callable[[SetupT], Handle[ItemT, PartT]],
    setup: SetupT,
    items: Iterable[ItemT],
    take: Callable[[ItemT, PartT], None],
    environments: Sequence[Mapping[str, str]] = (),
) -> None:
    """Works through items, in this process or in a worker for each environment.

    A worker gets the next item when it has finished one. It is started once there is an item for it.

    Args:
        begin: Opens what the items need, such as a model. With workers it is a function of a module, and it, the setup,
            the items and their parts can be pickled.
        setup: The argument of `begin`.
        items: Taken one by one, in order.
        take: Called in this process with each item and a part of its result. Those of one item come in order.
        environments: Variables of each worker beside ours. Fewer than two make no worker.

    Raises:
        StageFailed: A worker was killed.
        Exception: The error of `begin` or of an item, in a worker as here; the other workers end.
    """
    if len(environments) < 2:
        handle = begin(setup)
        for item in items:
            _work_here(handle, item, take)
        return
    crew = _Crew(begin, setup, environments)
    try:
        crew.work(iter(items), take)
        crew.dismiss()
    finally:
        crew.kill()


def _work_here(handle: Handle[ItemT, PartT], item: ItemT, take: Callable[[ItemT, PartT], None]) -> None:
    handle(item, lambda part: take(item, part))


class _Crew(Generic[SetupT, ItemT, PartT]):
    """The workers of one call."""

    def __init__(
        self,
        begin: Callable[[SetupT], Handle[ItemT, PartT]],
        setup: SetupT,
        environments: Sequence[Mapping[str, str]],
    ) -> None:
        self._task = (begin, setup)
        self._environments = environments
        self._workers: list[_Worker] = []

    def work(self, items: Iterator[ItemT], take: Callable[[ItemT, PartT], None]) -> None:
        """Hands the items out and takes the parts of their results."""
        busy: dict[Any, tuple[_Worker, ItemT]] = {}
        # Environments come first: where they end, no item is taken.
        for environment, item in zip(self._environments, items):  # noqa: B905
            worker = _Worker(environment)
            self._workers.append(worker)
            worker.send((sys.path, sys.argv))
            worker.send(self._task)
            # The item waits here: a worker that opens a model reads nothing, and its pipe holds little.
            busy[worker.results] = (worker, item)
        while busy:
            for results in wait(list(busy)):
                worker, item = busy[results]
                kind, value = worker.receive()
                if kind == "part":
                    take(item, value)
                elif kind == "failed":
                    raise value
                elif kind == "ready":
                    worker.send(item)
                else:
                    # It has finished its item.
                    del busy[results]
                    for next_item in islice(items, 1):
                        busy[results] = (worker, next_item)
                        worker.send(next_item)

    def dismiss(self) -> None:
        """Returns when all workers have ended, and with them their models."""
        for worker in self._workers:
            worker.requests.close()
        for worker in self._workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(SECONDS_TO_END)

    def kill(self) -> None:
        """Ends the workers that still run, with the processes that they started."""
        for worker in self._workers:
            worker.kill()


class _Worker:
    """One process, and the pipes to and from it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        theirs_to_read, self.requests = Pipe(duplex=False)
        self.results, theirs_to_write = Pipe(duplex=False)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, **environment},
            stdin=theirs_to_read.fileno(),
            stdout=theirs_to_write.fileno(),
            # Ctrl-C is for the process that started it, which ends it. The session also makes its children killable.
            start_new_session=True,
            preexec_fn=processes.die_with_parent,
        )
        theirs_to_read.close()
        theirs_to_write.close()

    def send(self, message: object) -> None:
        """Sends a message. That of a worker which has ended is lost: `receive` says so."""
        with contextlib.suppress(BrokenPipeError):
            self.requests.send(message)

    def receive(self) -> tuple[str, Any]:
        """The next message.

        Raises:
            StageFailed: The worker has ended without one.
        """
        try:
            kind, value = self.results.recv()
        except (EOFError, ConnectionResetError):
            code = self.process.wait()
            cause = f"exit code {code}"
            if code < 0:
                cause = signal.Signals(-code).name
            raise StageFailed(f"a worker was ended by {cause}; pass --resume to go on") from None
        return kind, value

    def kill(self) -> None:
        """Ends it at once, where it still runs."""
        if self.process.poll() is None:
            # It may start processes of its own, as vLLM does. They are of its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.requests.close()
        self.results.close()


def serve() -> None:
    """Works for the process that started this one, until that one closes its pipe or dies."""
    # The process that started it decides when it ends. A handler, unlike an ignored signal, is not inherited.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    requests = Connection(os.dup(0), writable=False)
    results = Connection(os.dup(1), readable=False)
    # Libraries may read from stdin, and print to stdout.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    # Without a process at the other end there is nobody to work for.
    with contextlib.suppress(EOFError, BrokenPipeError):
        sys.path[:], sys.argv[:] = requests.recv()
        try:
            begin, setup = requests.recv()
            handle = begin(setup)
            results.send(("ready", None))
            for item in _received(requests):
                handle(item, lambda part: results.send(("part", part)))
                results.send(("done", None))
        except Exception as error:
            results.send(("failed", _sendable(error)))


def _received(connection: Connection) -> Iterator[Any]:
    """The messages that come through a pipe until it is closed."""
    with contextlib.suppress(EOFError):
        while True:
            yield connection.recv()


def _sendable(error: Exception) -> Exception:
    """The error, or where it cannot be sent, one with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    # The constructors of errors are those of any library.
    except Exception:
        return StageFailed(one_line(error))
    return error
