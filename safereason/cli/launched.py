"""The processes of a training command: how many there are, and how `accelerate launch` starts several.

The launcher's end becomes our exit code.
"""

import logging
import signal
import sys
from typing import TYPE_CHECKING

import typer

from safereason import processes
from safereason.cli import signals
from safereason.console import say
from safereason.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safereason.recipe.schema import Recipe
    from safereason.stages.base import Options
    from safereason.training.fit import Gpus
    from safereason.training.launch import Launch
    from safereason.training.layout import Layout


def choose(
    launch_option: str, planned: "Gpus | None", recipe: "Recipe", options: "Options", keys: "Sequence[str]"
) -> "Layout":
    """The layout of the trainings of one command.

    Args:
        launch_option: The value of `--launch`.
        planned: The GPUs to plan for, in place of those of this machine.
        recipe: The recipe.
        options: Options with the model that they start from, where that is not the recipe's.
        keys: Dotted keys of the sections that are trained.

    Raises:
        InputError: The value is none of the option's, accelerate refuses it, or no layout fits the GPUs.
    """
    from safereason.training import layout
    from safereason.training.launch import NONE

    gpus = planned
    # The processes that a launcher started have their GPUs already.
    if gpus is None and launch_option != NONE and not processes.is_launched():
        gpus = layout.gpus_here()
    if options.model is not None:
        recipe = recipe.model_copy(update={"model": str(options.model)})
    return layout.choose_layout(launch_option, recipe, keys, gpus)


def train_on_one_device() -> None:
    """Leaves this process the first GPU of several, in one line on stderr."""
    from safereason.training import layout

    count = layout.device_count()
    if layout.use_first_device():
        say(f"launch: one process, on the first of {count} GPUs")


def program() -> list[str]:
    """The arguments of each process: those of this command line without the options that start several."""
    from safereason.training.launch import without

    # A process that got `--launch` would start further processes itself.
    return without(sys.argv[1:])


def start(launch: "Launch") -> None:
    """Starts the processes and waits for them. A process that fails prints its own error and gives its exit code.

    Raises:
        StageFailed: A process was killed.
        KeyboardInterrupt: The launcher or a process got Ctrl-C, or as `Signalled` another signal.
        typer.Exit: A process failed; it holds that process's exit code.
    """
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = launch.parsed(program())
    # Torch would take our signals over. Its handler leaves at an echo, before the processes have ended.
    arguments.signals_to_handle = signal.SIGQUIT.name
    # A process has printed its error in one line. The launcher would log it again, with a page of its own.
    logging.disable(logging.ERROR)
    try:
        launch_command(arguments)
    except SignalException as error:
        signals.end_by(error.sigval)
    except ChildFailedError as error:
        # In the order in which they failed: the launcher ended the others because of the first.
        rank, failure = next(iter(error.failures.items()))
        # A negative exit code is the number of the signal that killed the process, such as -9 when memory ran out.
        if failure.exitcode < 0:
            name = signals.name_of(-failure.exitcode)
            raise StageFailed(f"process {rank} was ended by {name}; pass --resume to go on") from error
        if failure.exitcode > 128:
            signals.end_by(failure.exitcode - 128)
        raise typer.Exit(failure.exitcode) from error
    finally:
        logging.disable(logging.NOTSET)
