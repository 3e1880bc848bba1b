"""The options that several commands share, each defined once, and what they are turned into."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.evals.bars import Bar
    from safereason.recipe.schema import Recipe
    from safereason.stages.base import Options
    from safereason.stages.verl import Backend as Verl
    from safereason.training.launch import Launch as Launched


def group(summary: str) -> typer.Typer:
    """A group of commands that prints plain help."""
    return typer.Typer(
        help=summary,
        rich_markup_mode=None,
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


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
Shard = Annotated[
    str | None, typer.Option("--shard", metavar="I/N", help="Only the I-th of N parts of the work, from 1.")
]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-under", metavar="METRIC=X", help="Exit with 3 where a figure lies under this; may be repeated."
    ),
]
FailOver = Annotated[
    list[str] | None,
    typer.Option("--fail-over", metavar="METRIC=X", help="Exit with 3 where a figure lies over this; may be repeated."),
]
JUnit = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", dir_okay=False, help="Write bars and figures as JUnit XML, for CI."),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="The same as the override seed=N.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done and stop.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete the run that is there and start anew.")]
Launch = Annotated[
    str | None,
    typer.Option(
        "--launch",
        metavar="accelerate[:CONFIG]",
        help="Train in several processes: CONFIG is fsdp2, zero3 or a file of accelerate's.",
    ),
]
Backend = Annotated[
    Literal["trl", "verl"], typer.Option("--backend", help="What trains: TRL here, or verl on a cluster of GPUs.")
]
GpusPerNode = Annotated[
    int | None, typer.Option("--gpus-per-node", min=1, metavar="N", help="With verl: GPUs of each machine (1).")
]
Nodes = Annotated[int | None, typer.Option("--nodes", min=1, metavar="N", help="With verl: machines (1).")]
Export = Annotated[
    Path | None, typer.Option("--export", metavar="DIR", help="With verl: only write what it is started with.")
]
Import = Annotated[
    Path | None, typer.Option("--import", metavar="DIR", help="With verl: take back what was trained in an export.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_be_verbose, is_eager=True, help="Log more, and show tracebacks.")
]

RUNS = Path("runs")


def load_recipe(name: str, overrides: list[str] | None, *, seed: int | None = None, **values: object) -> "Recipe":
    """The recipe with the overrides of the command line.

    Args:
        name: A shipped recipe or a file.
        overrides: `section.key=value` texts; `ATTACK.key=value` is short for a setting of an attack.
        seed: The value of `--seed`, which wins over an override.
        values: Further overrides of top-level keys; None leaves the recipe's value.
    """
    from safereason.recipe.load import load

    chosen = {"seed": seed, **values}
    texts = [f"{key}={json.dumps(value)}" for key, value in chosen.items() if value is not None]  # JSON is YAML
    return load(name, [*map(_in_full, overrides or ()), *texts])


def _in_full(override: str) -> str:
    """`gcg.steps=100` as `attack.settings.gcg.steps=100`; any other override as it is."""
    from safereason.attacks import ATTACKS

    attack = override.partition(".")[0]
    return f"attack.settings.{override}" if attack in (*ATTACKS, "rainbow") else override


ADHOC = "tars-1.5b"
"""The recipe whose eval section a model is attacked and measured with that is named without a recipe."""
LOCAL_JUDGE = "refusal-learned"
"""The judge of refusals that needs no model, and agrees best with people's labels (`docs/how-to/trust-a-judge.md`)."""
ADHOC_OVERRIDES = (
    "eval.attacks=[direct]",
    f"eval.harm_judge={LOCAL_JUDGE}",
    f"eval.refusal_judge={LOCAL_JUDGE}",
    "attack=null",
)
PLAIN_OVERRIDES = ("eval.sampling.max_new_tokens=512",)
"""For a model that is no run of ours, and so need not reason before it answers: HarmBench's protocol."""


def adhoc_recipe(model: str, overrides: Sequence[str] | None, seed: int | None) -> "Recipe":
    """A recipe for a model alone, with the papers' evaluation and local judges."""
    from safereason.runs.directory import read_manifest

    plain = () if read_manifest(Path(model)) else PLAIN_OVERRIDES
    adhoc = load_recipe(ADHOC, [*ADHOC_OVERRIDES, *plain, *(overrides or ())], seed=seed)
    return adhoc.model_copy(
        update={"name": "adhoc", "model": model, "paper": None, "sft": None, "rl": None, "provenance": {}}
    )


def recipe_of(recipe: str | None, model: str | None, overrides: Sequence[str] | None, seed: int | None) -> "Recipe":
    """The recipe that is named, else one for the model alone.

    Raises:
        InputError: Neither is named.
    """
    if recipe is not None:
        return load_recipe(recipe, list(overrides or ()), seed=seed)
    if model is None:
        raise InputError("which model? name one with --model, or a recipe with --recipe")
    return adhoc_recipe(model, overrides, seed)


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


def verl(
    backend: Literal["trl", "verl"],
    launch: str | None,
    gpus_per_node: int | None,
    nodes: int | None,
    export: Path | None,
    trained: Path | None,
) -> "Verl | None":
    """How verl is to train; None where TRL does.

    Raises:
        InputError: An option of verl's was given without it, or two that exclude each other.
    """
    given = {"--gpus-per-node": gpus_per_node, "--nodes": nodes, "--export": export, "--import": trained}
    if backend == "trl":
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name}: goes with --backend verl only; add that, or leave {name} out")
        return None
    if launch is not None:
        raise InputError("--launch: verl starts its own processes; leave --launch or --backend verl out")
    if export is not None and trained is not None:
        raise InputError("--export and --import exclude each other; pass one of them")
    from safereason.stages.verl import Backend as Verl
    from safereason.training.verl import Cluster

    return Verl(Cluster(gpus_per_node or 1, nodes or 1), export, trained)


def launch(spec: str | None) -> "Launched | None":
    """How several processes are started; None where there is one.

    Raises:
        InputError: accelerate cannot start what is asked for.
    """
    if spec is None:
        return None
    import torch

    from safereason.training.launch import read

    return read(spec, torch.cuda.device_count())


def shard_of(text: str | None) -> tuple[int, int] | None:
    """I and N of `--shard I/N`.

    Raises:
        InputError: It is something else.
    """
    if text is None:
        return None
    part, _, of = text.partition("/")
    if not (part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of)):
        raise InputError(f"--shard {text}: I/N is expected, with I from 1 to N, such as 2/8")
    return int(part), int(of)


def limit_key(recipe: "Recipe") -> str:
    """The key that `--limit` of `run` stands for."""
    return "guard.eval.limit" if recipe.guard else "eval.limit"


def bars(
    evaluation: str, figures: Sequence[str], fail_under: Sequence[str] | None, fail_over: Sequence[str] | None
) -> "list[Bar]":
    """What `--fail-under` and `--fail-over` set; a part of a figure stands after a slash, as in `dsr/direct`.

    Without `figures` any name will do: which ones there are is known once it is measured.

    Raises:
        InputError: The evaluation has no such figure, or no number is given.
    """
    from safereason.evals.bars import Bar

    sides: tuple[tuple[Literal["under", "over"], Sequence[str]], ...] = (
        ("under", fail_under or ()),
        ("over", fail_over or ()),
    )
    return [Bar(*_bar(evaluation, figures, f"--fail-{side}", text), side) for side, texts in sides for text in texts]


def _bar(evaluation: str, figures: Sequence[str], option: str, text: str) -> tuple[str, float]:
    figure, _, value = text.partition("=")
    if figures and figure.partition("/")[0] not in figures:
        raise InputError(f"{option} {text}: eval {evaluation} has no figure {figure!r}; it has {', '.join(figures)}")
    try:
        bound = float(value)
    except ValueError:
        bound = math.nan
    if math.isnan(bound):  # no figure lies under or over it
        raise InputError(f"{option} {text}: METRIC=NUMBER is expected, such as {[*figures, 'exact_match'][0]}=0.9")
    return figure, bound
