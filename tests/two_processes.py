"""Two processes that share a training, with the environment that `accelerate launch` gives to those that it starts.

They are forked from the warm process (`warm.py`), where a launcher imports everything twice: it costs half a minute a
start. `training/test_launch.py` tries the launcher itself.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from accelerate.commands.launch import _validate_launch_command
from accelerate.utils.launch import prepare_multi_gpu_env
from program import python_started
from torch.distributed import TCPStore
from warm import Child

from safereason.training import launch

COUNT = 2
COMMAND = "from safereason.cli.app import main; main()"
PATIENCE = 300.0


def run(
    spec: str, *arguments: object, program: str = COMMAND, **environment: str
) -> list[subprocess.CompletedProcess[str]]:
    """Both processes, run to their ends, by rank.

    Args:
        spec: A value of `--launch`, which says how they share the model.
        arguments: The command line without it.
        program: Python's code, in place of the console script.
        environment: Further variables.
    """
    with started(spec, *arguments, program=program, **environment) as processes, ThreadPoolExecutor(COUNT) as readers:
        written = list(readers.map(lambda process: process.communicate(timeout=PATIENCE), processes))
        return [
            subprocess.CompletedProcess(process.args, process.wait(), out, err)
            for process, (out, err) in zip(processes, written, strict=True)
        ]


def kill_once(what: Callable[[], object], processes: list[Child]) -> None:
    """Kills all of them outright as soon as something holds, which it has to before one of them ends."""
    while not what():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()


@contextmanager
def started(spec: str, *arguments: object, program: str = COMMAND, **environment: str) -> Iterator[list[Child]]:
    """Both processes while they run, by rank; what is left of them is killed."""
    # As the launcher does, this process holds the store, so that the port is known before anyone asks for it.
    store = TCPStore("127.0.0.1", 0, COUNT, is_master=True, wait_for_workers=False)
    shared = {
        **_accelerate(spec),
        **environment,
        "WORLD_SIZE": str(COUNT),
        "LOCAL_WORLD_SIZE": str(COUNT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    processes = [
        python_started(program, *arguments, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(COUNT)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            with process:
                process.kill()


def _accelerate(spec: str) -> dict[str, str]:
    """What `accelerate launch` adds to the environment."""
    arguments, _, _ = _validate_launch_command(launch.read(spec, gpus=COUNT).parsed([]))
    given = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in given.items() if os.environ.get(name) != value}
