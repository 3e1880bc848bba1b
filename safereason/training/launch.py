"""`--launch accelerate[:CONFIG]`: the same command in several processes, started by `accelerate launch`.

`training.layout` chooses one of the shipped configs where the command line names none.

accelerate's config file names processes, machines and ports, and its own parser reads it.
"""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safereason.errors import InputError, message_of
from safereason.runs.manifest import installed

if TYPE_CHECKING:
    from accelerate.commands.config.config_args import ClusterConfig

OPTION, LAUNCHER = "--launch", "accelerate"
AUTO, NONE = "auto", "none"
"""Values of the option that name no launcher: what fits the GPUs, and this process alone."""
CONFIGS = Path(__file__).parent / "configs"
DDP, FSDP2, FSDP2_OFFLOAD = "ddp", "fsdp2", "fsdp2-offload"
"""Names of shipped configs."""


@dataclass(frozen=True)
class Launch:
    """The arguments of `accelerate launch`, and the processes that it starts."""

    arguments: tuple[str, ...]
    """Arguments before the command."""
    processes: int
    """Processes over all machines."""
    layout: str = "DDP"
    """How they share the model: DDP, FSDP2, ZeRO-3, …; each holds all of it under DDP alone."""
    offloads: bool = False
    """Whether weights, gradients and optimizer lie in the CPU's memory (FSDP2's `CPUOffloadPolicy`)."""

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the model."""
        return self.layout != "DDP"

    def command(self, program: Sequence[str]) -> tuple[str, ...]:
        """The arguments of `accelerate launch` that start safereason with these arguments."""
        return (*self.arguments, "--module", "safereason", *program)

    def shown(self, program: Sequence[str]) -> str:
        """The command line for a shell."""
        return shlex.join(("accelerate", "launch", *self.command(program)))

    def parsed(self, program: Sequence[str]) -> argparse.Namespace:
        """The arguments as `accelerate launch` itself parses them."""
        return _parser().parse_args(self.command(program))


def shipped_configs() -> tuple[str, ...]:
    """The names of the configs that come with safereason."""
    return tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))


def read(launch_option: str, gpus: int) -> Launch:
    """The launch that a value of `--launch` describes.

    Args:
        launch_option: `accelerate`, for the config that `accelerate config` wrote or else all GPUs; or
            `accelerate:CONFIG`, a shipped config or a file of accelerate's.
        gpus: GPUs of this machine: a process each where the config does not say.

    Raises:
        InputError: The value is neither, accelerate refuses the config, or it leads to one process.
    """
    launcher, colon, name = launch_option.partition(":")
    if launcher != LAUNCHER or (colon and not name):
        raise InputError(
            f"{OPTION} {launch_option}: {AUTO}, {NONE}, {LAUNCHER} or {LAUNCHER}:CONFIG is expected, CONFIG being "
            f"{', '.join(shipped_configs())} or a file"
        )
    launch = _launch_of(name, gpus)
    if launch.processes < 2:
        raise InputError(
            f"{OPTION} {launch_option}: this comes to {launch.processes} process; name an accelerate config with "
            f"num_processes above 1, or pass {OPTION} {NONE}"
        )
    return launch


def without(program: Sequence[str]) -> list[str]:
    """A command line without its `--launch`: the one that each process is started with."""
    kept: list[str] = []
    is_value = False
    for argument in program:
        is_option = argument == OPTION or argument.startswith(f"{OPTION}=")
        if not is_option and not is_value:
            kept.append(argument)
        is_value = argument == OPTION
    return kept


def _launch_of(name: str, gpus: int) -> Launch:
    """The launch by a config of this name, by the config that `accelerate config` wrote, or on all GPUs."""
    if name:
        path = _config_path(name)
        return _launch_by_config(path, gpus, ("--config_file", str(path)))
    default = _default_config()
    if default is not None:
        return _launch_by_config(default, gpus, ())
    if gpus < 2:
        raise InputError(
            f"{OPTION} {LAUNCHER}: this machine has {gpus} GPUs and no accelerate config; write one with "
            f"`accelerate config`, or name one as {LAUNCHER}:FILE"
        )
    return _launch_of(DDP, gpus)


def _config_path(name: str) -> Path:
    """The file of a shipped config, or of one of the user's.

    Raises:
        InputError: There is no such file.
    """
    path = Path(name)
    if name in shipped_configs():
        path = CONFIGS / f"{name}.yaml"
    if not path.is_file():
        raise InputError(
            f"{OPTION} {LAUNCHER}:{name}: no such file, and the shipped configs are {', '.join(shipped_configs())}"
        )
    return path


def _default_config() -> Path | None:
    """The config that `accelerate config` wrote, or None."""
    from accelerate.commands.config.config_args import default_config_file

    path = Path(default_config_file)
    if not path.is_file():
        return None
    return path


def _launch_by_config(path: Path, gpus: int, arguments: tuple[str, ...]) -> Launch:
    """The launch by a config, which accelerate finds by these arguments.

    Raises:
        InputError: accelerate cannot read the config, or cannot start it here.
    """
    from accelerate.utils import DistributedType

    config = _read_accelerate_config(path)
    if config.distributed_type == DistributedType.NO:
        raise InputError(f"{path}: distributed_type NO is one process; choose another, or pass {OPTION} {NONE}")
    if config.distributed_type == DistributedType.MULTI_CPU:
        raise InputError(
            f"{path}: accelerate starts MULTI_CPU through MPI; for CPU processes without it set "
            "distributed_type: MULTI_GPU and use_cpu: true"
        )
    if config.distributed_type == DistributedType.DEEPSPEED and installed("deepspeed") is None:
        raise InputError(f"{path}: this needs DeepSpeed; `pip install 'safereason[deepspeed]'`")
    layout = _layout_of(config)
    offloads = bool((config.fsdp_config or {}).get("fsdp_offload_params"))
    # -1 is accelerate's default: such a config, as the shipped ones, fits any number of GPUs.
    if config.num_processes != -1:
        return Launch(arguments, int(config.num_processes), layout, offloads)
    if gpus == 0:
        raise InputError(f"{path}: does not say num_processes, and this machine has no GPU; set it in a file of yours")
    processes = gpus * int(config.num_machines)
    return Launch((*arguments, "--num_processes", str(processes)), processes, layout, offloads)


def _layout_of(config: "ClusterConfig") -> str:
    """The way in which the processes of a config share the model, by the name of its method."""
    from accelerate.utils import DistributedType

    if config.distributed_type == DistributedType.FSDP:
        # accelerate's own default is the first version.
        version = (config.fsdp_config or {}).get("fsdp_version", 1)
        return f"FSDP{version}"
    if config.distributed_type == DistributedType.DEEPSPEED:
        stage = (config.deepspeed_config or {}).get("zero_stage", 2)
        return f"ZeRO-{stage}"
    return "DDP"


def _read_accelerate_config(path: Path) -> "ClusterConfig":
    """The config as accelerate reads it.

    Raises:
        InputError: accelerate cannot read it.
    """
    from accelerate.commands.config.config_args import load_config_from_file
    from yaml import YAMLError

    try:
        return load_config_from_file(str(path))
    # accelerate checks little of the file by itself: wrong values end in errors of Python's.
    except (ValueError, TypeError, AttributeError, OSError, YAMLError) as error:
        raise InputError(f"{path}: accelerate cannot read it ({message_of(error)})") from error


def _parser() -> argparse.ArgumentParser:
    from accelerate.commands.launch import launch_command_parser

    parser: argparse.ArgumentParser = launch_command_parser()
    return parser
