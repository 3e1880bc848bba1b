"""A process that has the package and its libraries imported and forks a child for each command that a test runs.

Most of a command's time on models of two layers is spent on imports. A child of this process begins where the console
script begins, or a program that a test wrote, with its own arguments, environment, folder and streams. A shell has such
children by a client. `COLD` says which commands begin as a person begins them.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NoReturn

LIBRARIES = (
    "torch",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "trl.trainer.grpo_trainer",
    "trl.trainer.sft_trainer",
    "trl.trainer.dpo_trainer",
    "peft",
    "accelerate",
    "datasets",
    "pyarrow.parquet",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.metrics",
    "matplotlib.figure",
    "openai",
    "fastapi",
    "uvicorn",
    "typer",
    "rich.progress",
    "pydantic",
    "jinja2",
    "yaml",
    "datasketch",
    "huggingface_hub",
)
"""What most commands import."""
PACKAGE = "safereason"
COLD = (
    "PYTHON",
    "LC_",
    "LANG",
    "HF_",
    "HUGGING",
    "TRANSFORMERS_",
    "TORCH",
    "OMP_",
    "CUDA_",
    "RANK",
    "WORLD_",
    "LOCAL_",
    "RAY_",
    "VLLM_",
    "HOME",
    "TMPDIR",
    "XDG_",
)
"""Variables that Python and the libraries read while they are imported: a command with others begins anew."""
READ_LATER = (
    "PYTHONPATH",
    "HF_TOKEN",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "TORCHELASTIC_USE_AGENT_STORE",
)
"""Names like those of `COLD` that are read when they are needed; a child puts the folders of the first on its path."""
CLIENT = """#!{python} -SE
import json, os, socket, sys

connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [b"."], [0, 1, 2])
job = {{"argv": sys.argv[1:], "env": dict(os.environ), "program": "", "cwd": os.getcwd()}}
connection.sendall(json.dumps(job).encode() + b"\\n")
with connection.makefile() as lines:
    lines.readline()
    code = int(lines.readline())
sys.exit(code if code >= 0 else 128 - code)
"""
"""The command for a shell: a child of the warm process, with the client's streams, environment and folder."""


class Warm:
    """The test's side of it."""

    def __init__(self, command: str, environment: Mapping[str, str]) -> None:
        """Starts the process; `command` is the console script, and most of its children have this environment."""
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._address = f"{self._folder.name}/socket"
        self._environment = environment
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self._address)
        listening.listen()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(listening.fileno()), command],
            env={**self._environment, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},  # as a command sets it for itself
            stdin=subprocess.PIPE,  # it ends when this closes, as it does with the test's own process
            stdout=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
        )
        listening.close()
        client = Path(self._folder.name) / "bin" / Path(command).name
        client.parent.mkdir()
        client.write_text(CLIENT.format(python=sys.executable, address=self._address))
        client.chmod(0o700)
        self.folder_of_client = client.parent

    def takes(self, environment: Mapping[str, str]) -> bool:
        """Whether a command in this environment would begin as one that begins anew."""
        names = environment.keys() | self._environment.keys()
        read_early = [n for n in names if n.startswith(COLD) and n not in READ_LATER]
        return all(environment.get(n) == self._environment.get(n) for n in read_early)

    def run(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        program: str = "",
        cwd: Path | None = None,
        stdin: str | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run` gives with output captured, or `TimeoutExpired`.

        `program` is Python's code, in place of the console script.
        """
        with tempfile.TemporaryFile() as stdin_file, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            stdin_file.write((stdin or "").encode())
            stdin_file.seek(0)
            child = Child(
                self._address, _job(arguments, env, program, cwd), [f.fileno() for f in (stdin_file, out, err)]
            )
            try:
                code = child.wait(timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                raise
            return subprocess.CompletedProcess(list(arguments), code, _text(out), _text(err))

    def start(
        self, arguments: Sequence[str], *, env: Mapping[str, str], program: str = "", streams: Sequence[int] = ()
    ) -> "Child":
        """What `subprocess.Popen` gives with a session of its own and three pipes, or these descriptors instead."""
        return Child(self._address, _job(arguments, env, program), streams)


class Child:
    """A running command; it is used as `subprocess.Popen` is."""

    def __init__(self, address: str, job: Mapping[str, Any], streams: Sequence[int] = ()) -> None:
        """Starts it, with these descriptors as its streams, else with pipes that are attributes here."""
        self.args = job["argv"]
        self.returncode: int | None = None
        pipes = [] if streams else [os.pipe() for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]] if pipes else list(streams)
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(address)
        socket.send_fds(self._connection, [b"."], theirs)
        self._connection.sendall(json.dumps(job).encode() + b"\n")
        # Without a buffer, so that `select` tells whether there is something to read.
        self._replies = self._connection.makefile("rb", buffering=0)
        self.pid = int(self._replies.readline())
        if pipes:
            for number in theirs:
                os.close(number)
            self.stdin = os.fdopen(pipes[0][1], "w")
            self.stdout, self.stderr = os.fdopen(pipes[1][0]), os.fdopen(pipes[2][0])

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *error: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.wait()

    def poll(self) -> int | None:
        """Its exit code, minus the signal that ended it; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or `TimeoutExpired`."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = int(self._replies.readline())
            self._replies.close()
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it to the command, if that has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, text: str = "", timeout: float | None = None) -> tuple[str, str]:
        """What it writes to its end on stdout and on stderr, once it was given this."""
        with ThreadPoolExecutor(2) as readers:
            written = [readers.submit(stream.read) for stream in (self.stdout, self.stderr)]
            with contextlib.suppress(BrokenPipeError):
                self.stdin.write(text)
                self.stdin.close()
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            return written[0].result(), written[1].result()


def _job(
    arguments: Sequence[str], env: Mapping[str, str], program: str = "", cwd: Path | None = None
) -> dict[str, Any]:
    return {"argv": list(arguments), "env": dict(env), "program": program, "cwd": str(cwd or Path.cwd())}


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode().replace("\r\n", "\n")


def load() -> None:
    """Imports the libraries and all of the package that can be imported here."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(importlib.import_module(PACKAGE).__path__, f"{PACKAGE}."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of an extra that is not installed
                importlib.import_module(module.name)
    gc.freeze()


def _serve(listening: socket.socket, command: str) -> str:
    """Forks a keeper for each connection, until stdin ends. Only a child returns, with the program it is to run."""
    load()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while True:
        if sys.stdin in select.select([listening, sys.stdin], [], [])[0]:
            os._exit(0)
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _keep(connection, command)
        connection.close()


def _keep(connection: socket.socket, command: str) -> str:
    """Forks the command, says its process id and then its exit code. Only the command's own process returns."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as lines:
        job = json.loads(lines.readline())
    pid = os.fork()
    if pid:
        for stream in streams:
            os.close(stream)
        connection.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    connection.close()
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Those of the process that forked know what its own descriptors were.
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(job["cwd"])
    added = set(_python_path(job["env"])) - set(_python_path(os.environ))
    sys.path[1:1] = [folder for folder in _python_path(job["env"]) if folder in added]
    os.environ.clear()
    os.environ.update(job["env"])
    sys.argv = ["-c" if job["program"] else command, *job["argv"]]
    sys.path[0] = "" if job["program"] else str(Path(command).parent)
    return str(job["program"])


def _python_path(environment: Mapping[str, str]) -> list[str]:
    return [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]


def end_with(call: Callable[[], object]) -> NoReturn:
    """Ends this forked process as an interpreter ends after the call: exit code, traceback, `atexit`, flushed streams.

    An interpreter's own end would copy, object by object, all the memory that is shared with the process it came from.
    """
    code = 1
    try:
        code = _code_of(call)
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _code_of(call: Callable[[], object]) -> int:
    try:
        call()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _become(program: str) -> None:
    """The command, or the test's program, from where the interpreter would begin with it."""
    if program:
        exec(program, {"__name__": "__main__"})
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    child_job = _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
    end_with(lambda: _become(child_job))
