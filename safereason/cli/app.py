"""The `safereason` command. Nothing heavy is imported before a command runs."""

import os
import sys
import warnings
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import safereason
from safereason.cli import attack, data, doctor, errors, eval, guard, recipe, report, rl, run, sft, sweep
from safereason.cli import options as opt
from safereason.cli.output import ClosedStdout

app = opt.group("Train, guard, attack and measure language models that reason about safety.")


# From a recipe to a report, then what is about the installation. Typer would list single commands before groups.
ORDER = ("recipe", "data", "sft", "rl", "guard", "attack", "eval", "run", "sweep", "report", "doctor")


class _OrderedGroup(TyperGroup):
    """The group of all commands. Its help lists them in the order in which a person uses them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)


def _print_version(value: bool) -> None:
    """Prints the version and ends the command, where `--version` was given."""
    if value:
        print(safereason.__version__)
        raise typer.Exit


@app.callback(cls=_OrderedGroup, epilog=opt.examples("safereason run --recipe tars-smoke", "safereason recipe ls"))
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, guard, attack and measure language models that reason about safety."""


# Groups and commands are imported above with their options only; what they run is imported when they run.
app.add_typer(recipe.app, name="recipe")
app.add_typer(data.app, name="data")
app.command("sft", epilog=sft.EXAMPLES)(sft.sft)
app.command("rl", epilog=rl.EXAMPLES)(rl.rl)
app.add_typer(guard.app, name="guard")
app.add_typer(attack.app, name="attack")
app.add_typer(eval.app, name="eval")
app.command("run", epilog=run.EXAMPLES)(run.run)
app.command("sweep", epilog=sweep.EXAMPLES)(sweep.sweep)
app.command("report", epilog=report.EXAMPLES)(report.report)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)


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
    # Libraries address these to the code that calls them; a person at the command line cannot act on them.
    warnings.simplefilter("ignore", FutureWarning)
    sys.exit(errors.guarded(lambda: app(standalone_mode=False, prog_name="safereason")))
