"""The installed `safereason` command, as a person runs it."""

import os
import subprocess
import sys
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("safereason"))


def safereason(
    *arguments: object, cwd: Path | None = None, timeout: float = 300, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs it to its end; the exit code, stdout and stderr are for the test to check."""
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        input=stdin,
        timeout=timeout,
    )


def said_once(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a command that refused, with nothing on stdout and no traceback."""
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.rstrip("\n")
