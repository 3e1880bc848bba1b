"""This program in a process of its own, whose end becomes ours."""

import signal
import subprocess
import sys
from collections.abc import Sequence

from safereason import processes
from safereason.cli import signals
from safereason.errors import StageFailed


class ChildEnded(Exception):
    """A process of this program failed or was interrupted, and has printed its last line."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


def run(words: Sequence[str]) -> None:
    """Runs a command of this program, and returns when it has ended well. What it prints on stdout is dropped.

    It gets the signals that this process gets, and dies with it.

    Raises:
        ChildEnded: It failed, or was interrupted with this process.
        StageFailed: It was killed.
        KeyboardInterrupt: A signal ended it before it could print a line.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "safereason", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # Ctrl-C reaches all processes of a terminal's group. Both would end, and this one could not wait.
        start_new_session=True,
        preexec_fn=processes.die_with_parent,
    )
    try:
        code = _wait(process)
    finally:
        # A second signal, or an error of our own, found it running.
        if process.poll() is None:
            process.kill()
            process.wait()
    if code < 0:
        raise StageFailed(f"{words[0]}: a process of it was ended by {signals.name_of(-code)}; run it again to go on")
    if code:
        raise ChildEnded(code)


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """The exit code of the process; a signal that this one gets is passed on first."""
    try:
        return process.wait()
    except KeyboardInterrupt as interrupt:
        number = signal.SIGINT
        if isinstance(interrupt, signals.Signalled):
            number = signal.Signals(signals.last() or signal.SIGTERM)
        process.send_signal(number)
        code = process.wait()
        if code == 128 + number:
            raise ChildEnded(code) from interrupt
        raise
