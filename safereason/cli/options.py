"""The options that several commands share, each defined once, and the functions that parse their values."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.evals.bars import Bar
    from safereason.evals.metrics import FigureInfo
    from safereason.recipe.schema import Recipe
    from safereason.stages.base import Options
    from safereason.stages.verl import VerlBackend
    from safereason.training.fit import Gpus

T = TypeVar("T")


def examples(*commands: str) -> str:
    """The epilog of a command's help: one example a line."""
    # Click keeps the line breaks of a paragraph that begins with a backspace character.
    lines = ["\b", "Examples:"]
    lines += [f"  {command}" for command in commands]
    return "\n".join(lines)


def _enable_debug_log(value: bool) -> None:
    if value:
        # Only our own logger is set to DEBUG: libraries log so much that our lines would be lost among theirs.
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
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
    typer.Option("--fail-under", metavar="FIGURE=X", help="Exit with 3 if a figure is below X; repeatable."),
]
FailOver = Annotated[
    list[str] | None,
    typer.Option("--fail-over", metavar="FIGURE=X", help="Exit with 3 if a figure is above X; repeatable."),
]
JUnit = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", dir_okay=False, help="Write bars and figures as JUnit XML, for CI."),
]
# It has an option beside the override, as it is the value that is changed most.
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="The same as the override seed=N.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
# Without one of these two, a folder with an unfinished run is refused: no result is lost by a repeated command.
Resume = Annotated[bool, typer.Option("--resume", help="Continue a run that was interrupted.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete the existing run and start again.")]
OverwriteFile = Annotated[bool, typer.Option("--overwrite", help="Replace the file --out if it exists.")]
JudgeName = Annotated[str, typer.Option("--judge", metavar="JUDGE", help="The judge, as `eval ls` names it.")]
LaunchOption = Annotated[
    str,
    typer.Option(
        "--launch",
        metavar="auto|none|accelerate[:CONFIG]",
        help="Processes of a training: what the GPUs allow, one, or accelerate's by a shipped config or a file.",
    ),
]
PrecisionOption = Annotated[
    Literal["fp32", "bf16"] | None,
    typer.Option(
        "--precision", help="Arithmetic of models that run here; by default bf16 on a GPU that has it, else fp32."
    ),
]
WorkGpus = Annotated[
    str | None,
    typer.Option(
        "--gpus", metavar="all|N", help="GPUs to share the work out to; with --dry-run also 4x48GB, to plan for."
    ),
]
PlannedGpus = Annotated[
    str | None,
    typer.Option("--gpus", metavar="NxGPU", help="With --dry-run: GPUs to plan for, as A100, 4xA6000 or 8x80GB."),
]
BackendOption = Annotated[
    Literal["trl", "verl"],
    typer.Option("--backend", help="Trainer: this program (`trl`), or verl on a cluster of GPUs."),
]
GpusPerNode = Annotated[
    int | None, typer.Option("--gpus-per-node", min=1, metavar="N", help="With verl: GPUs of each machine (1).")
]
Nodes = Annotated[int | None, typer.Option("--nodes", min=1, metavar="N", help="With verl: machines (1).")]
Export = Annotated[
    Path | None,
    typer.Option("--export", metavar="DIR", help="With verl: write its input to this folder, and train nothing."),
]
Import = Annotated[
    Path | None,
    typer.Option("--import", metavar="DIR", help="With verl: take the trained model from an exported folder."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=_enable_debug_log, is_eager=True, help="Log more, and show tracebacks."),
]

# The default of `--root` is relative: runs belong to the folder that a person works in.
RUNS = Path("runs")


def load_recipe(name: str, overrides: list[str] | None, *, seed: int | None = None, **values: object) -> "Recipe":
    """The recipe with the overrides of the command line.

    Args:
        name: A shipped recipe or a file.
        overrides: `section.key=value` texts; `ATTACK.key=value` is short for a setting of an attack.
        seed: The value of `--seed`. It wins over an override.
        values: Further overrides by their keys; None leaves the recipe's value.
    """
    from safereason.recipe.load import load

    # The last override of a key wins, so those of named options come after the typed ones.
    texts = [_expand_attack_setting(override) for override in overrides or ()]
    for key, value in {"seed": seed, **values}.items():
        if value is not None:
            # Overrides are read as YAML. JSON is a subset of it and quotes every text that needs quotes.
            texts.append(f"{key}={json.dumps(value)}")
    return load(name, texts)


def _expand_attack_setting(override: str) -> str:
    """`attack.settings.gcg.steps=100` for `gcg.steps=100`; any other override unchanged."""
    from safereason.recipe.schema import Recipe

    attack = override.partition("=")[0].partition(".")[0]
    # Of an attack and a section of one name, the section wins. Most overrides are of one, and need no attack imported.
    if attack in Recipe.model_fields:
        return override
    from safereason.attacks import ATTACKS

    # Rainbow teaming has settings like an attack, but is not in the registry: it makes training prompts.
    if attack == "rainbow" or ATTACKS.has(attack):
        return f"attack.settings.{override}"
    return override


# A model that is named without a recipe is attacked and measured by this recipe's eval section.
ADHOC = "tars-1.5b"
# The judge of refusals that needs no model. It agrees best with people's labels (docs/how-to/trust-a-judge.md).
LOCAL_JUDGE = "refusal-learned"
ADHOC_OVERRIDES = (
    "eval.attacks=[direct]",
    f"eval.harm_judge={LOCAL_JUDGE}",
    f"eval.refusal_judge={LOCAL_JUDGE}",
    "attack=null",
)
# HarmBench's protocol samples 512 tokens. A model that is not one of our runs need not reason before it answers, so
# 512 are enough; a trained one would be cut off in its reasoning.
PLAIN_OVERRIDES = ("eval.sampling.max_new_tokens=512",)


def adhoc_recipe(model: str, overrides: Sequence[str] | None, seed: int | None) -> "Recipe":
    """A recipe for a model alone, with the papers' evaluation and local judges."""
    from safereason.runs.directory import read_manifest

    texts = list(ADHOC_OVERRIDES)
    if not read_manifest(Path(model)):
        texts += PLAIN_OVERRIDES
    texts += overrides or ()
    adhoc = load_recipe(ADHOC, texts, seed=seed)
    # Nothing of the paper may be claimed for another model: no provenance, no training, no paper's figures beside it.
    return adhoc.model_copy(
        update={"name": "adhoc", "model": model, "paper": None, "sft": None, "rl": None, "provenance": {}}
    )


def recipe_of(recipe: str | None, model: str | None, overrides: Sequence[str] | None, seed: int | None) -> "Recipe":
    """The named recipe, or one for the model alone.

    Raises:
        InputError: Neither a recipe nor a model is named.
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
    precision: Literal["fp32", "bf16"] | None = None,
    gpus: "GpuChoice | None" = None,
) -> "Options":
    """The stage's options: which model, how it runs, where it writes, and what it does with a run that is there.

    Raises:
        InputError: Both `--resume` and `--overwrite` were given.
    """
    from safereason.engines.spec import ModelSpec
    from safereason.runs.directory import OnExisting
    from safereason.stages.base import Options

    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; pass one of them")
    on_existing: OnExisting = "refuse"
    if resume:
        on_existing = "resume"
    elif overwrite:
        on_existing = "overwrite"
    chosen = None
    if model is not None:
        chosen = ModelSpec.parse(model)
    gpus = gpus or GpuChoice()
    return Options(
        root=root,
        out=out,
        on_existing=on_existing,
        model=chosen,
        base_url=base_url,
        precision=precision,
        gpus=gpus.most,
        planned_gpus=gpus.planned,
    )


@dataclass(frozen=True)
class GpuChoice:
    """The GPUs of `--gpus` for work that is shared out to them."""

    most: int | None = None
    """Most GPUs of this machine; None takes all."""
    planned: "Gpus | None" = None
    """GPUs elsewhere, to plan for."""


def parse_work_gpus(text: str | None, dry_run: bool) -> GpuChoice:
    """The GPUs of `--gpus all|N`, and on a dry run also of `--gpus 4x48GB`.

    Raises:
        InputError: The text is none of these, or names GPUs elsewhere without `--dry-run`.
    """
    if text is None or text == "all":
        return GpuChoice()
    if text.isdecimal() and int(text) > 0:
        return GpuChoice(most=int(text))
    if not dry_run:
        raise InputError(
            f"--gpus {text}: all or a number is expected; GPUs elsewhere, as 4x48GB, go with --dry-run only"
        )
    return GpuChoice(planned=planned_gpus(text, dry_run))


def parse_verl(
    backend: Literal["trl", "verl"],
    launch: str,
    gpus: str | None,
    gpus_per_node: int | None,
    nodes: int | None,
    export: Path | None,
    trained: Path | None,
) -> "VerlBackend | None":
    """The settings of a training by verl; None for one here.

    Raises:
        InputError: An option of verl's was given without it, or two that exclude each other.
    """
    given = {"--gpus-per-node": gpus_per_node, "--nodes": nodes, "--export": export, "--import": trained}
    if backend == "trl":
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name}: goes with --backend verl only; add that, or leave {name} out")
        return None
    if launch != "auto":
        raise InputError("--launch: verl starts its own processes; leave --launch or --backend verl out")
    if gpus is not None:
        raise InputError("--gpus: verl plans with --gpus-per-node and --nodes; leave --gpus or --backend verl out")
    if export is not None and trained is not None:
        raise InputError("--export and --import exclude each other; pass one of them")
    from safereason.stages.verl import VerlBackend
    from safereason.training.verl import GPUCluster

    return VerlBackend(GPUCluster(gpus_per_node or 1, nodes or 1), export, trained)


def planned_gpus(text: str | None, dry_run: bool) -> "Gpus | None":
    """The GPUs of `--gpus`; None where it was not given.

    Raises:
        InputError: No such GPUs are known, or it was given without `--dry-run`.
    """
    if text is None:
        return None
    if not dry_run:
        raise InputError("--gpus: goes with --dry-run only; without it the GPUs of this machine are taken")
    from safereason.training.fit import parse_gpus

    return parse_gpus(text)


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """I and N of `--shard I/N`; None without a shard.

    Raises:
        InputError: The text has another form, or I is not from 1 to N.
    """
    if text is None:
        return None
    part, _, of = text.partition("/")
    if not (part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of)):
        raise InputError(f"--shard {text}: I/N is expected, with I from 1 to N, such as 2/8")
    return int(part), int(of)


def limit_key(recipe: "Recipe") -> str:
    """The recipe's key that `--limit` of `run` and `sweep` sets."""
    if recipe.guard:
        return "guard.eval.limit"
    return "eval.limit"


def either_name(name: str, value: T | None, old_name: str, old_value: T | None) -> T | None:
    """The value of a renamed option, given by its name or by its old one.

    Raises:
        InputError: Both names were used.
    """
    # A repeatable option that is not given is None or an empty list, which depends on the version of Typer.
    if old_value is None or old_value == []:
        return value
    if value is None or value == []:
        return old_value
    raise InputError(f"{name} and {old_name} are the same option; pass {name} only")


def parse_bars(
    evaluation: str, reports: "Sequence[FigureInfo]", fail_under: Sequence[str] | None, fail_over: Sequence[str] | None
) -> "list[Bar]":
    """The bars that `--fail-under` and `--fail-over` set.

    A figure of a group is named after a slash, as in `dsr/direct`.

    Args:
        evaluation: The evaluation's name, for messages.
        reports: Its figures. Empty accepts any name: those of `capability` are known once it is measured.
        fail_under: `FIGURE=X` texts.
        fail_over: `FIGURE=X` texts.

    Raises:
        InputError: The evaluation has no such figure, or a text has no number.
    """
    from safereason.evals.bars import Bar

    figures = [info.name for info in reports]
    bars: list[Bar] = []
    for text in fail_under or ():
        figure, bound = _parse_bar(evaluation, figures, "--fail-under", text)
        bars.append(Bar(figure, bound, "under"))
    for text in fail_over or ():
        figure, bound = _parse_bar(evaluation, figures, "--fail-over", text)
        bars.append(Bar(figure, bound, "over"))
    return bars


def _parse_bar(evaluation: str, figures: Sequence[str], option: str, text: str) -> tuple[str, float]:
    figure, _, value = text.partition("=")
    if figures and figure.partition("/")[0] not in figures:
        raise InputError(f"{option} {text}: eval {evaluation} has no figure {figure!r}; it has {', '.join(figures)}")
    try:
        bound = float(value)
    except ValueError:
        bound = math.nan
    # Nothing compares with NaN, so no figure could meet such a bar.
    if math.isnan(bound):
        raise InputError(f"{option} {text}: FIGURE=NUMBER is expected, such as {[*figures, 'exact_match'][0]}=0.9")
    return figure, bound
