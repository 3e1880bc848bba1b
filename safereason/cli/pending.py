"""Commands of the grammar that another version fills: they are listed, and say that they are not there."""

import typer

from safereason.cli import options as opt
from safereason.errors import InputError

_ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True}


def not_part_yet(command: str) -> InputError:
    """What is said where a command or one of its choices is not there yet."""
    return InputError(f"`safereason {command}` is not part of this version yet; see CHANGELOG")


def add(app: typer.Typer, command: str, summary: str, example: str) -> None:
    """Adds a command that only says that it is not there; `command` is its full name, such as `guard serve`."""

    def pending() -> None:
        raise not_part_yet(command)

    name = command.split()[-1]
    app.command(
        name,
        help=f"{summary}. Not part of this version yet.",
        short_help=f"Not yet: {summary}.",
        epilog=opt.examples(example),
        context_settings=_ANYTHING,
    )(pending)
