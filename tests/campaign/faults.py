"""Faults at a chosen moment: the process under attack meets one when it writes for the k-th time.

An audit hook of the interpreter sees every file that is opened to be written, renamed or removed, and every folder
that is made, before it happens. So the program is attacked as it is, without a line of it replaced.
"""

import errno
import json
import os
import resource
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

VARIABLE = "CAMPAIGN_FAULT"
"""Tells a process that is started anew which fault it meets."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Kind = Literal["none", "kill", "terminate", "interrupt", "memory", "disk", "size"]


@dataclass(frozen=True)
class Fault:
    """What happens, and when."""

    kind: Kind
    folder: str
    """Only writes under it count."""
    at: int = 0
    """Number of the write, from 0; for `size` the most bytes of a file."""
    log: str = ""
    """File that gets a line a write; the process under attack appends to it."""

    def to_json(self) -> str:
        """For the environment of another process."""
        return json.dumps(asdict(self))


class _Hook:
    """Counts writes and brings the fault about."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._seen = 0
        self._is_busy = False
        self._log = os.open(fault.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if fault.log else -1

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self._is_busy:
            return
        path = _written(event, args)
        if path is None or not path.startswith(self._fault.folder):
            return
        self._is_busy = True
        try:
            number, self._seen = self._seen, self._seen + 1
            if self._log >= 0:
                os.write(self._log, f"{event} {path}\n".encode(errors="replace"))
            self._act(number, event, path)
        finally:
            self._is_busy = False

    def _act(self, number: int, event: str, path: str) -> None:
        kind, at = self._fault.kind, self._fault.at
        if kind == "disk" and number >= at and event in ("open", "os.mkdir"):  # a full disk stays full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if number != at:
            return
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        elif kind == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        elif kind == "memory":
            raise MemoryError


def _written(event: str, args: tuple[Any, ...]) -> str | None:
    """The file or folder that an event changes; None where it changes none."""
    if event == "open":
        path, mode, flags = args[:3]
        writes = flags & WRITES if isinstance(flags, int) else any(letter in (mode or "") for letter in "wax+")
        return _text(path) if writes else None
    if event == "os.rename":
        return _text(args[1])
    if event in ("os.remove", "os.mkdir", "os.rmdir"):
        return _text(args[0])
    return None


def _text(path: Any) -> str | None:
    if isinstance(path, int):
        return None
    return os.path.abspath(os.fsdecode(path))


def install(fault: Fault) -> None:
    """Makes this process meet the fault; there is no way back, so that it is called in one that is started for it."""
    if fault.kind == "size":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.at, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    sys.addaudithook(_Hook(fault))


def install_from_environment() -> None:
    """What a process that is started anew calls first."""
    if text := os.environ.get(VARIABLE):
        install(Fault(**json.loads(text)))
