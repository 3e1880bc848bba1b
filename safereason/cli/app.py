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
from safereason.cli.output import Closed

app = opt.group("Train, guard, attack and measure language models that reason about safety.")


class _InOrder(TyperGroup):
    """Lists the commands in the order of the work."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = ("recipe", "data", "sft", "rl", "guard", "attack", "eval", "run", "sweep", "report", "doctor")
        return sorted(super().list_commands(ctx), key=order.index)


def _print_version(value: bool) -> None:
    if value:
        print(safereason.__version__)
        raise typer.Exit


@app.callback(cls=_InOrder, epilog=opt.examples("safereason run --recipe tars-smoke", "safereason recipe ls"))
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, guard, attack and measure language models that reason about safety."""


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
    """The console script."""
    # A stream that was closed, as by `>&-`, is None.
    sys.stdout, sys.stderr = sys.stdout or TextIOWrapper(Closed()), sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a lone surrogate or a narrow locale must not end a command
            stream.reconfigure(errors="backslashreplace")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore", FutureWarning)  # of libraries, to their own callers
    sys.exit(errors.guarded(lambda: app(standalone_mode=False, prog_name="safereason")))
