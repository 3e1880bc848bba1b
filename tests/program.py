"""The installed `safereason` command, as a person runs it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from warm import COLD, Child, Warm

Running = Child | subprocess.Popen[str]
COMMAND = str(Path(sys.executable).with_name("safereason"))
AT_FIRST = dict(os.environ)
"""The environment before tests ran: libraries that they import, such as Ray's, set variables of their own."""
HUB = tempfile.TemporaryDirectory(prefix="hub-")
"""An empty cache of the Hub's client, so that no model of the person who runs the tests is found."""


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


def on_streams(*arguments: object, streams: Sequence[int], env: Mapping[str, str]) -> Running:
    """The command while it runs, with these descriptors as its streams and with nothing but this in its environment."""
    argv = list(map(str, arguments))
    if _warm().takes(env):
        return _warm().start(argv, env=env, streams=streams)
    stdin, out, err = streams
    return subprocess.Popen([COMMAND, *argv], env=env, stdin=stdin, stdout=out, stderr=err, start_new_session=True)


def python(
    program: str, *arguments: object, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A program of the test's own, such as one that kills itself at a certain record, run to its end."""
    return _warm().run(list(map(str, arguments)), env=_environment(environment), program=program, timeout=timeout)


def python_started(program: str, *arguments: object, **environment: str) -> Child:
    """A program of the test's own while it runs, as `started` has the command."""
    return _warm().start(list(map(str, arguments)), env=_environment(environment), program=program)


def in_shell(
    script: str, *arguments: object, cwd: Path | None = None, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A script of bash, run to its end, in which `safereason` is the command; `$@` are the arguments."""
    path = f"{_warm().folder_of_client}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", script, "-", *map(str, arguments)],
        cwd=cwd,
        env={**_environment(environment), "PATH": path},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def offline() -> dict[str, str]:
    """The environment of every command: that of the tests, without the Hub and what is cached of it.

    Of variables that decide whether a command begins anew it has those of before any test.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(COLD)}
    early = {name: value for name, value in AT_FIRST.items() if name.startswith(COLD)}
    return {**kept, **early, "HF_HUB_OFFLINE": "1", "HF_HOME": HUB.name}


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**offline(), "COLUMNS": "120", **more}


@cache
def _warm() -> Warm:
    return Warm(COMMAND, offline())


def refusal_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a command that refused, with nothing on stdout and no traceback."""
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.rstrip("\n")
