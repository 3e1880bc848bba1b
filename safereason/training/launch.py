"""`--launch accelerate[:CONFIG]`: the same command in several processes, started by `accelerate launch`.

What is said here is accelerate's: its config file names processes, machines and ports, and its own parser reads it.
"""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safereason.errors import InputError
from safereason.runs.manifest import installed

OPTION, LAUNCHER = "--launch", "accelerate"
CONFIGS = Path(__file__).parent / "configs"
PLAIN = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
"""What accelerate would say that it took for granted."""


@dataclass(frozen=True)
class Launch:
    """How `accelerate launch` is to start a command."""

    arguments: tuple[str, ...]
    """What stands before the command."""
    processes: int
    """Over all machines."""

    def command(self, program: Sequence[str]) -> tuple[str, ...]:
        """The arguments of `accelerate launch` that start safereason with these arguments."""
        return (*self.arguments, "--module", "safereason", *program)

    def shown(self, program: Sequence[str]) -> str:
        """The command line for a shell."""
        return shlex.join(("accelerate", "launch", *self.command(program)))

    def parsed(self, program: Sequence[str]) -> argparse.Namespace:
        """What `accelerate launch` makes of it."""
        return _parser().parse_args(self.command(program))


def shipped() -> tuple[str, ...]:
    """The names of the configs that come with safereason."""
    return tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))


def read(spec: str, gpus: int) -> Launch:
    """What `--launch` asks for.

    Args:
        spec: `accelerate`, for the config that `accelerate config` wrote or else all GPUs; or `accelerate:CONFIG`, a
            shipped config or a file of accelerate's.
        gpus: How many this machine has: a process each where the config does not say.

    Raises:
        InputError: It is neither, accelerate refuses the config, or it leads to one process.
    """
    launcher, colon, name = spec.partition(":")
    if launcher != LAUNCHER or (colon and not name):
        raise InputError(
            f"{OPTION} {spec}: {LAUNCHER} or {LAUNCHER}:CONFIG is expected, CONFIG being "
            f"{', '.join(shipped())} or a file"
        )
    config = _file(name) if name else _own()
    launch = _all_gpus(gpus) if config is None else _by_config(config, gpus, str(config) if name else None)
    if launch.processes < 2:
        raise InputError(
            f"{OPTION} {spec}: this comes to {launch.processes} process; name an accelerate config with "
            f"num_processes above 1, or leave {OPTION} out"
        )
    return launch


def without(program: Sequence[str]) -> list[str]:
    """A command line without its `--launch`: what each process is started with."""
    kept, skip = [], False
    for argument in program:
        if not (skip or argument == OPTION or argument.startswith(f"{OPTION}=")):
            kept.append(argument)
        skip = argument == OPTION
    return kept


def _file(name: str) -> Path:
    path = CONFIGS / f"{name}.yaml" if name in shipped() else Path(name)
    if not path.is_file():
        raise InputError(
            f"{OPTION} {LAUNCHER}:{name}: no such file, and the shipped configs are {', '.join(shipped())}"
        )
    return path


def _own() -> Path | None:
    """The config that `accelerate config` wrote, or None."""
    from accelerate.commands.config.config_args import default_config_file

    path = Path(default_config_file)
    return path if path.is_file() else None


def _all_gpus(gpus: int) -> Launch:
    if gpus < 2:
        raise InputError(
            f"{OPTION} {LAUNCHER}: this machine has {gpus} GPUs and no accelerate config; write one with "
            f"`accelerate config`, or name one as {LAUNCHER}:FILE"
        )
    return Launch(("--multi_gpu", "--num_processes", str(gpus), *PLAIN), gpus)


def _by_config(path: Path, gpus: int, named: str | None) -> Launch:
    from accelerate.utils import DistributedType

    config = _config(path)
    if config.distributed_type == DistributedType.NO:
        raise InputError(f"{path}: distributed_type NO is one process; choose another, or leave {OPTION} out")
    if config.distributed_type == DistributedType.MULTI_CPU:
        raise InputError(
            f"{path}: accelerate starts MULTI_CPU through MPI; for CPU processes without it set "
            "distributed_type: MULTI_GPU and use_cpu: true"
        )
    if config.distributed_type == DistributedType.DEEPSPEED and installed("deepspeed") is None:
        raise InputError(f"{path}: this needs DeepSpeed; `pip install 'safereason[deepspeed]'`")
    file = ("--config_file", named) if named else ()
    if config.num_processes != -1:
        return Launch(file, int(config.num_processes))
    if gpus == 0:
        raise InputError(f"{path}: does not say num_processes, and this machine has no GPU; set it in a file of yours")
    processes = gpus * int(config.num_machines)
    return Launch((*file, "--num_processes", str(processes)), processes)


def _config(path: Path) -> Any:
    """The config as accelerate reads it.

    Raises:
        InputError: It does not.
    """
    from accelerate.commands.config.config_args import load_config_from_file
    from yaml import YAMLError

    try:
        return load_config_from_file(str(path))
    except (ValueError, TypeError, AttributeError, OSError, YAMLError) as error:
        raise InputError(f"{path}: accelerate cannot read it ({' '.join(str(error).split())})") from error


def _parser() -> argparse.ArgumentParser:
    from accelerate.commands.launch import launch_command_parser

    parser: argparse.ArgumentParser = launch_command_parser()
    return parser
