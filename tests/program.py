"""The installed `safereason` command, as a person runs it."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from warm import Warm

COMMAND = str(Path(sys.executable).with_name("safereason"))


def safereason(
    *arguments: object, cwd: Path | None = None, timeout: float = 300, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs it to its end; the exit code, stdout and stderr are for the test to check."""
    argv = list(map(str, arguments))
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", **environment}
    if _warm().takes(env):
        return _warm().run(argv, cwd=cwd, env=env, stdin=stdin, timeout=timeout)
    return subprocess.run(
        [COMMAND, *argv], cwd=cwd, env=env, capture_output=True, text=True, input=stdin, timeout=timeout
    )


@cache
def _warm() -> Warm:
    return Warm(COMMAND)


def said_once(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a command that refused, with nothing on stdout and no traceback."""
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.rstrip("\n")
