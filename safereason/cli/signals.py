"""Signals that ask a command to end: it ends as by Ctrl-C, with whole files, and prints the signal's name.

A batch system sends SIGTERM before it kills, and a terminal that is closed sends SIGHUP, unless `nohup` has it ignored.
"""

import os
import signal
import threading
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
# The signals that arrived. They are kept apart from the exceptions, since Typer turns every KeyboardInterrupt into the
# exit code of Ctrl-C.
_received: list[int] = []


class Signalled(KeyboardInterrupt):
    """The arrival of a signal that asks the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(name_of(number))
        _received.append(number)


def name_of(number: int) -> str:
    """The name of a signal, such as `SIGTERM`."""
    return signal.Signals(number).name


def take() -> None:
    """Makes these signals raise `Signalled` in the main thread of this process from now on."""
    # Python allows handlers to be set in the main thread only. A program may call the command line from another one.
    if threading.current_thread() is not threading.main_thread():
        return
    own = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            raise Signalled(number)
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
    return _received[-1]
