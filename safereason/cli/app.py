"""The `safereason` command. The module of a command is imported when the command is called."""

import os
import sys
import warnings
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

import safereason
from safereason.cli import errors, groups
from safereason.cli import options as opt
from safereason.cli.output import ClosedStdout

# From a recipe to a report, then what is about the installation: the order in which a person uses them.
app = groups.group(
    "Train, guard, attack and measure language models that reason about safety.",
    groups.imported("recipe", "recipe:app"),
    groups.imported("data", "data:app"),
    groups.imported("sft", "sft:sft"),
    groups.imported("rl", "rl:rl"),
    groups.imported("guard", "guard:app"),
    groups.imported("attack", "attack:app"),
    groups.imported("eval", "eval:app"),
    groups.imported("run", "run:run"),
    groups.imported("sweep", "sweep:sweep"),
    groups.imported("report", "report:report"),
    groups.imported("doctor", "doctor:doctor"),
)


def _print_version(value: bool) -> None:
    """Prints the version and ends the command, where `--version` was given."""
    if value:
        print(safereason.__version__)
        raise typer.Exit


@app.callback(epilog=opt.examples("safereason run --recipe tars-smoke", "safereason recipe ls"))
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, guard, attack and measure language models that reason about safety."""


def main() -> None:
    """Entry of the console script: runs the command that was typed, and exits with its code."""
    # Python sets a stream to None where a shell closed it, as by `>&-`.
    if sys.stdout is None:
        sys.stdout = TextIOWrapper(ClosedStdout())
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A completion may hold half of a surrogate pair, and the locale may be ASCII: neither may end a command.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # The hub's bars redraw one line, which fills a log file with thousands of copies.
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Pydantic would read the metadata of every installed package for plugins of its own.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Libraries address these to the code that calls them; a person at the command line cannot act on them.
    warnings.simplefilter("ignore", FutureWarning)
    sys.exit(errors.guarded(lambda: app(standalone_mode=False, prog_name="safereason")))
