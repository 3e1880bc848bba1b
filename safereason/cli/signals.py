"""Signals that ask a command to end: it ends as by Ctrl-C, with whole files, and says which signal it was.

A batch system sends SIGTERM before it kills, and a terminal that is closed sends SIGHUP, unless `nohup` has it ignored.
"""

import os
import signal
import threading
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
_taken: list[int] = []
"""The signals that came."""


class Signalled(KeyboardInterrupt):
    """A signal came that asks the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(name_of(number))
        _taken.append(number)


def name_of(number: int) -> str:
    """What a signal is called, such as `SIGTERM`."""
    return signal.Signals(number).name


def take() -> None:
    """From now on these signals raise `Signalled` in the main thread of this process."""
    if threading.current_thread() is not threading.main_thread():  # as where a program calls the command line
        return
    own = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            raise Signalled(number)
        # A process that was forked off, such as one that loads data, is ended by whoever started it.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def release() -> None:
    """From now on these signals end the process at once, as it is over but for its last words."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def last() -> int | None:
    """The signal that ended this command; None where none came."""
    return _taken[-1] if _taken else None
