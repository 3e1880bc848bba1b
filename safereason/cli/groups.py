"""Groups of commands. The module of a command is imported when the command is called.

A listing needs the names and summaries alone. `docs/generate.py` collects them in `help.json`, from the docstrings of
the commands and from the registries.
"""

import json
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, cast

import typer
from typer.core import TyperCommand, TyperGroup

Command: TypeAlias = TyperCommand | TyperGroup
HELP = Path(__file__).with_name("help.json")


@cache
def help_texts() -> dict[str, dict[str, Any]]:
    """The contents of `help.json`.

    Returns:
        Three mappings: `commands`, the summary of each by its words, such as `data build`; `attacks`, the summary of
        each by its name; and `evals`, for each name the `summary`, and the `figure` that its example sets a bar for.
    """
    try:
        texts = json.loads(HELP.read_text(encoding="utf-8"))
    except ValueError:
        # Two branches that each add a command conflict in it. `make docs` has to run all the same, to write it anew.
        texts = {"commands": {}, "attacks": {}, "evals": {}}
    return cast("dict[str, dict[str, Any]]", texts)


class Unloaded(TyperCommand):
    """A command whose module is not imported: the name and the summary, and a function that makes the command."""

    def __init__(self, name: str, summary: str, load: Callable[[], Command]) -> None:
        super().__init__(name, help=summary)
        self.load = load


def whole(command: Command) -> Command:
    """The command with its options or its commands; its module is imported."""
    if isinstance(command, Unloaded):
        return command.load()
    return command


def imported(words: str, target: str) -> Unloaded:
    """A command or a group of another module.

    Args:
        words: The words that call it, such as `data ls`.
        target: `MODULE:NAME` in `safereason.cli`: a function whose module has `EXAMPLES`, or an app.
    """
    name = words.rpartition(" ")[2]
    # A command that is new has no summary before `make docs`, and can be called all the same.
    return Unloaded(name, help_texts()["commands"].get(words, ""), partial(_load, name, target))


def _load(name: str, target: str) -> Command:
    module_name, _, attribute = target.partition(":")
    module = import_module(f"safereason.cli.{module_name}")
    command = getattr(module, attribute)
    if not isinstance(command, typer.Typer):
        return command_of(name, command, epilog=module.EXAMPLES)
    # `get_command` makes a single command of a group that has only one of its own.
    group_of_commands = typer.main.get_group(command)
    group_of_commands.name = name
    return group_of_commands


def command_of(name: str, function: Callable[..., None], *, summary: str | None = None, epilog: str) -> Command:
    """A command that runs a function; the function's docstring is the summary where none is given."""
    # An application of one command is that command.
    alone = group("")
    alone.command(name, help=summary, epilog=epilog)(function)
    return cast("Command", typer.main.get_command(alone))


def group(
    summary: str, *unloaded: Unloaded, plugin: Callable[[str], Command | None] = lambda name: None
) -> typer.Typer:
    """A group of commands that prints plain help.

    Args:
        summary: The summary of the group.
        unloaded: Commands that are listed after those that are added to the group itself.
        plugin: Makes a command that is not listed, by its name; None where the name leads to none.
    """

    class Group(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            for command in unloaded:
                self.add_command(command)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return super().get_command(ctx, cmd_name) or plugin(cmd_name)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            # Only here is a command called. A listing takes it by `get_command`.
            name, command, rest = super().resolve_command(ctx, args)
            return name, whole(cast("Command", command)), rest

    return typer.Typer(
        cls=Group,
        help=summary,
        # Plain help reads the same in a pipe, a log and the documentation, which is generated from it.
        rich_markup_mode=None,
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
