"""Signals that ask a command to end: it ends as by Ctrl-C, with whole files, and prints the signal's name.

A batch system sends SIGTERM before it kills, and a terminal that is closed sends SIGHUP, unless `nohup` has it ignored.
"""

import os
import signal
import threading
import time
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGTERM, signal.SIGHUP)
# Seconds in which further signals are echoes of the first: a batch system sends one to every process, and processes
# pass it on to those that they started. An echo must not break into the writing of the run's end.
ECHO = 3.0
# The signals that arrived, each with its time. They are kept apart from the exceptions, since Typer turns every
# KeyboardInterrupt into the exit code of Ctrl-C.
_received: list[tuple[int, float]] = []


class Signalled(KeyboardInterrupt):
    """The arrival of a signal that asks the command to end. It can be pickled: torch sends it to other processes."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return name_of(self.number)


def name_of(number: int) -> str:
    """The name of a signal, such as `SIGTERM`."""
    return signal.Signals(number).name


def end_by(number: int) -> NoReturn:
    """Ends the command by a signal that this process got, or another one that works for the command.

    Raises:
        KeyboardInterrupt: Always; a `Signalled` unless the signal is that of Ctrl-C.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    _received.append((number, time.monotonic()))
    raise Signalled(number)


def take() -> None:
    """Makes these signals raise `Signalled` in the main thread of this process from now on."""
    # A program may call several command lines, one after the other.
    _received.clear()
    # Python allows handlers to be set in the main thread only. A program may call the command line from another one.
    if threading.current_thread() is not threading.main_thread():
        return
    own = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            if not _is_echo():
                end_by(number)
            return
        # A forked process, such as one that loads data, has this handler too. It must die of the signal silently, as
        # the process that started it expects.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in ENDING:
        # `nohup` has SIGHUP ignored, and that has to stay so.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def release() -> None:
    """Makes these signals end the process at once from now on: only its last line is left to print."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def last() -> int | None:
    """The signal that ended this command; None without one."""
    if not _received:
        return None
    return _received[-1][0]


def _is_echo() -> bool:
    """Whether a signal that arrives now follows another one so closely that it is the same one again."""
    return bool(_received) and time.monotonic() - _received[-1][1] < ECHO
