"""The installed `safereason` command, as a person runs it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from warm import Child, Warm

Running = Child | subprocess.Popen[str]
COMMAND = str(Path(sys.executable).with_name("safereason"))


def safereason(
    *arguments: object, cwd: Path | None = None, timeout: float = 300, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs it to its end; the exit code, stdout and stderr are for the test to check."""
    argv = list(map(str, arguments))
    env = _environment(environment)
    if _warm().takes(env):
        return _warm().run(argv, cwd=cwd, env=env, stdin=stdin, timeout=timeout)
    return subprocess.run(
        [COMMAND, *argv], cwd=cwd, env=env, capture_output=True, text=True, input=stdin, timeout=timeout
    )


def started(*arguments: object, **environment: str) -> Running:
    """The command while it runs, with pipes and in a session of its own, to be watched, sent signals or killed."""
    argv, env = list(map(str, arguments)), _environment(environment)
    if _warm().takes(env):
        return _warm().start(argv, env=env)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [COMMAND, *argv], env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def python(program: str, *arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """A program of the test's own, such as one that kills itself at a certain record, run to its end."""
    return _warm().run(list(map(str, arguments)), env=_environment({}), program=program, timeout=timeout)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", **more}


@cache
def _warm() -> Warm:
    return Warm(COMMAND)


def said_once(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a command that refused, with nothing on stdout and no traceback."""
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.rstrip("\n")
