"""The options that several commands share, each defined once, and what they are turned into."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.recipe.schema import Recipe
    from safereason.stages.base import Options


def group(summary: str) -> typer.Typer:
    """A group of commands that prints plain help."""
    return typer.Typer(
        help=summary, rich_markup_mode=None, no_args_is_help=True, add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )  # fmt: skip


def examples(*commands: str) -> str:
    """The epilog of a command's help."""
    return "\n".join(("\b", "Examples:", *(f"  {command}" for command in commands)))


def _be_verbose(value: bool) -> None:
    if value:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # to stderr
        logging.getLogger("safereason").setLevel(logging.DEBUG)


RECIPE_HELP = "A shipped recipe (`safereason recipe ls`) or a YAML file."
RecipeName = Annotated[str, typer.Option("--recipe", metavar="RECIPE", help=RECIPE_HELP)]
MaybeRecipe = Annotated[str | None, typer.Option("--recipe", metavar="RECIPE", help=RECIPE_HELP)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="SECTION.KEY=VALUE", help="Values in place of the recipe's.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODEL", help="org/name, a folder, a run directory, embedded/smollm2-135m or openai/NAME."
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", metavar="URL", help="Address of an OpenAI-compatible server, for openai/NAME."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="PATH", help="Where to write, in place of a folder under --root.")
]
Root = Annotated[
    Path, typer.Option("--root", metavar="DIR", envvar="SAFEREASON_RUNS", help="Folder that holds the runs.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Take at most N prompts or rows.")]
Bars = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-under", metavar="METRIC=X", help="Exit with 3 where a figure lies under this; may be repeated."
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="The same as the override seed=N.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done and stop.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete the run that is there and start anew.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_be_verbose, is_eager=True, help="Log more, and show tracebacks.")
]

RUNS = Path("runs")


def load_recipe(name: str, overrides: list[str] | None, *, seed: int | None = None, **values: object) -> "Recipe":
    """The recipe with the overrides of the command line.

    Args:
        name: A shipped recipe or a file.
        overrides: `section.key=value` texts.
        seed: The value of `--seed`, which wins over an override.
        values: Further overrides of top-level keys; None leaves the recipe's value.
    """
    from safereason.recipe.load import load

    chosen = {"seed": seed, **values}
    texts = [f"{key}={json.dumps(value)}" for key, value in chosen.items() if value is not None]  # JSON is YAML
    return load(name, [*(overrides or ()), *texts])


ADHOC = "tars-1.5b"
"""The recipe whose eval section a model is attacked and measured with that is named without a recipe."""
ADHOC_OVERRIDES = ("eval.attacks=[direct]", "eval.harm_judge=refusal", "eval.refusal_judge=refusal", "attack=null")


def adhoc_recipe(model: str, overrides: Sequence[str] | None, seed: int | None) -> "Recipe":
    """A recipe for a model alone, with the papers' evaluation and local judges."""
    adhoc = load_recipe(ADHOC, [*ADHOC_OVERRIDES, *(overrides or ())], seed=seed)
    return adhoc.model_copy(
        update={"name": "adhoc", "model": model, "paper": None, "sft": None, "rl": None, "provenance": {}}
    )


def stage_options(
    root: Path,
    out: Path | None = None,
    model: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    base_url: str | None = None,
) -> "Options":
    """The options of a stage.

    Raises:
        InputError: Both `--resume` and `--overwrite` were given.
    """
    from safereason.runs.directory import OnExisting
    from safereason.stages.base import Options

    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; pass one of them")
    on_existing: OnExisting = "resume" if resume else "overwrite" if overwrite else "refuse"
    return Options(root=root, out=out, on_existing=on_existing, model=model, base_url=base_url)


def bar(evaluation: str, figures: Sequence[str], text: str) -> tuple[str, float]:
    """Figure and least value of one `--fail-under`; a part of a figure stands after a slash, as in `dsr/direct`.

    Raises:
        InputError: The evaluation has no such figure, or no number is given.
    """
    figure, _, value = text.partition("=")
    if figure.partition("/")[0] not in figures:
        raise InputError(
            f"--fail-under {text}: eval {evaluation} has no figure {figure!r}; it has {', '.join(figures)}"
        )
    try:
        return figure, float(value)
    except ValueError:
        raise InputError(f"--fail-under {text}: METRIC=NUMBER is expected, such as {figures[0]}=0.9") from None
