"""The installed `safereason` command on a terminal: a pseudo-terminal of 40 lines of 120 characters."""

import fcntl
import os
import pty
import struct
import termios
from contextlib import suppress

from program import offline, on_streams


def on_terminal(*arguments: object, **environment: str) -> tuple[int, str]:
    """Its exit code, and all that the terminal was sent on stdout and stderr."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    own = {"TERM": "xterm-256color", "PAGER": "cat"}
    kept = {key: value for key, value in offline().items() if key not in ("COLUMNS", "LINES", "NO_COLOR", "LESS")}
    process = on_streams(*arguments, streams=(its, its, its), env={**kept, **own, **environment})
    os.close(its)
    sent = b""
    with suppress(OSError):  # what Linux ends a terminal with
        while block := os.read(ours, 1 << 16):
            sent += block
    os.close(ours)
    return process.wait(timeout=60), sent.decode().replace("\r\n", "\n")
