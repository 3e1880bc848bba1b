"""A process that has the libraries imported and forks a child for each command that a test runs.

Most of a command's time on models of two layers is spent on the import of torch and transformers. A child of this
process begins where the console script begins, with its own arguments, environment, folder and streams, and imports
the package itself anew. `COLD` says which commands begin as a person begins them.
"""

import atexit
import gc
import importlib
import json
import os
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


class Warm:
    """The test's side of it."""

    def __init__(self, command: str) -> None:
        """Starts the process; `command` is the console script."""
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._address = f"{self._folder.name}/socket"
        self._environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
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

    def takes(self, environment: Mapping[str, str]) -> bool:
        """Whether a command in this environment would begin as one that begins anew."""
        names = environment.keys() | self._environment.keys()
        return not any(n.startswith(COLD) and environment.get(n) != self._environment.get(n) for n in names)

    def run(
        self, arguments: Sequence[str], *, cwd: Path | None, env: Mapping[str, str], stdin: str | None, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run` gives with output captured, or `TimeoutExpired`."""
        job = {"argv": arguments, "cwd": str(cwd or Path.cwd()), "env": dict(env)}
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write((stdin or "").encode())
            given.seek(0)
            code = self._run(job, (given, out, err), timeout)
            return subprocess.CompletedProcess(list(arguments), code, _text(out), _text(err))

    def _run(self, job: Mapping[str, Any], streams: Sequence[IO[bytes]], timeout: float) -> int:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._address)
            socket.send_fds(connection, [b"."], [stream.fileno() for stream in streams])
            connection.sendall(json.dumps(job).encode() + b"\n")
            with connection.makefile() as replies:
                pid = int(replies.readline())
                connection.settimeout(timeout)
                try:
                    return int(replies.readline())
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(list(job["argv"]), timeout) from None


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode().replace("\r\n", "\n")


def _serve(listening: socket.socket, command: str) -> None:
    """Forks a keeper for each connection, until stdin ends. Only a child that became a command returns from it."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while True:
        if sys.stdin in select.select([listening, sys.stdin], [], [])[0]:
            os._exit(0)
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if _keep(connection, command):
                return
        connection.close()


def _keep(connection: socket.socket, command: str) -> bool:
    """Forks the command, says its process id and then its exit code. True in the command's own process."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as lines:
        job = json.loads(lines.readline())
    pid = os.fork()
    if pid:
        connection.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    sys.argv = [command, *job["argv"]]
    sys.path[0] = str(Path(command).parent)
    return True


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


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
    end_with(lambda: runpy.run_path(sys.argv[0], run_name="__main__"))
