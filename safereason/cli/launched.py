"""A training command in several processes: `accelerate launch` starts them, and its end becomes our exit code."""

import logging
import signal
import sys
from typing import TYPE_CHECKING

import typer

from safereason.cli.signals import Signalled
from safereason.errors import StageFailed

if TYPE_CHECKING:
    from safereason.training.launch import Launch


def program() -> list[str]:
    """The arguments of each process: those of this command line without the options that start several."""
    from safereason.training.launch import without

    # A process that got `--launch` would start further processes itself.
    return without(sys.argv[1:])


def start(launch: "Launch") -> None:
    """Starts the processes and waits for them. A process that fails prints its own error and gives its exit code.

    Raises:
        StageFailed: A process was killed.
        KeyboardInterrupt: The launcher got Ctrl-C, or as `Signalled` another signal.
        typer.Exit: A process failed; it holds that process's exit code.
    """
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # A process has printed its error in one line. The launcher would log it again, with a page of its own.
    logging.disable(logging.ERROR)
    try:
        launch_command(launch.parsed(program()))
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise Signalled(error.sigval) from error
    except ChildFailedError as error:
        rank, failure = min(error.failures.items())
        # A negative exit code is the number of the signal that killed the process, such as -9 when memory ran out.
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise StageFailed(f"process {rank} was ended by {name}; pass --resume to go on") from error
        raise typer.Exit(failure.exitcode) from error
    finally:
        logging.disable(logging.NOTSET)
