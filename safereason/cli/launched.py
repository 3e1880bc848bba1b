"""A training command in several processes: `accelerate launch` is started here, and how it ended is said."""

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
    """What each process is started with: this command line, without what starts several."""
    from safereason.training.launch import without

    return without(sys.argv[1:])


def start(launch: "Launch") -> None:
    """Starts the processes and waits for them; what fails in one has been said by it, and ends this command alike.

    Raises:
        StageFailed: A process was killed.
    """
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # the launcher tells at length what a process has said in one line
    try:
        launch_command(launch.parsed(program()))
    except SignalException as error:
        raise (KeyboardInterrupt if error.sigval == signal.SIGINT else Signalled(error.sigval)) from error
    except ChildFailedError as error:
        rank, failure = min(error.failures.items())
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise StageFailed(f"process {rank} was ended by {name}; pass --resume to go on") from error
        raise typer.Exit(failure.exitcode) from error
    finally:
        logging.disable(logging.NOTSET)
