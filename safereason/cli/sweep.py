"""`safereason sweep`: a recipe at several values."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import output, stage, steps
from safereason.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safereason.recipe.schema import Recipe
    from safereason.runs.records import Record
    from safereason.training.fit import Gpus

EXAMPLES = opt.examples(
    "safereason sweep --recipe tars-1.5b data.harmful_ratio=0.1,0.3,0.5,0.7,0.9",
    "safereason sweep --recipe tars-smoke seed=0,1,2 rl.kl_coef=0.0,1e-3 --print",
    "safereason sweep --recipe tars-1.5b seed=0,1,2 --dry-run --gpus 4x48GB",
    "safereason sweep --recipe tars-1.5b data.harmful_ratio=0.1,0.3,0.5,0.7,0.9 --shard 2/5",
)

Varied = Annotated[
    list[str], typer.Argument(metavar="SECTION.KEY=VALUE,VALUE", help="Values in place of the recipe's; each is tried.")
]
Print = Annotated[
    bool, typer.Option("--print", help="Print one command for each combination, with a folder of its own, and stop.")
]


def sweep(
    overrides: Varied,
    recipe: opt.RecipeName,
    root: opt.Root = opt.RUNS,
    limit: opt.Limit = None,
    seed: opt.Seed = None,
    shard: opt.Shard = None,
    printed: Print = False,
    launch: opt.LaunchOption = "auto",
    gpus: opt.PlannedGpus = None,
    dry_run: opt.DryRun = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Run a recipe at every combination of the values, then one report over all; finished runs are skipped."""
    from safereason.recipe.sweep import label, points

    if printed and dry_run:
        raise InputError("--print and --dry-run exclude each other; pass one of them")
    words: dict[str, list[str]] = {}
    commands: dict[str, str] = {}
    recipes: dict[str, Recipe] = {}
    # Every recipe is loaded before any is run: a value that only the last point has may be wrong.
    for point in points(overrides):
        name = label(point, overrides)
        recipes[name] = _recipe_of_point(recipe, point, seed, limit)
        words[name] = steps.words_of(recipe, point, root, seed, limit)
        commands[name] = _command_of_point(recipe, point, root, name, seed, limit, launch)
    # The shard is checked for `--print` too, though the list holds every point.
    part = opt.parse_shard(shard)
    planned = opt.planned_gpus(gpus, dry_run)
    if printed:
        _print_commands(commands, as_json)
    elif dry_run:
        _print_plans(recipes, root, launch, planned, as_json)
    else:
        _run_points(recipe, recipes, words, root, part, launch, as_json)


def _run_points(
    recipe: str,
    recipes: "dict[str, Recipe]",
    words: "Mapping[str, list[str]]",
    root: Path,
    part: tuple[int, int] | None,
    launch: str,
    as_json: bool,
) -> None:
    """Runs the recipes and prints their figures. A part of a sweep has no report: the others are not there yet."""
    from safereason.stages import sweep as stage_sweep
    from safereason.training.layout import gpus_here

    options = opt.stage_options(root)
    title = f"{Path(recipe).stem}, {len(recipes)} settings"
    if part is not None:
        recipes = stage_sweep.shard(recipes, part)
    here = gpus_here()
    starts = {}
    for name, chosen in recipes.items():
        start = steps.starter(words[name], chosen, options, launch, here)
        if start is not None:
            starts[name] = start
    with output.results_only():
        if part is not None:
            document = stage_sweep.run_shard(recipes, options, starts)
        else:
            document = stage_sweep.run_sweep(recipes, options, title, starts).metrics
    if as_json:
        output.print_json(document)
        return
    stage.print_changes(_figures_by_row(document["changes"]))
    if "report" in document:
        print(f"report: {document['report']}")


def _print_plans(
    recipes: "Mapping[str, Recipe]", root: Path, launch: str, planned: "Gpus | None", as_json: bool
) -> None:
    """Prints the steps of each point, the layout of each step that opens a model, and the hours of the trainings."""
    from safereason.stages.pipeline import pipeline_steps
    from safereason.training.layout import gpus_here

    gpus = planned or gpus_here()
    plans: list[Record] = []
    # A training that does not fit ends the plan before anything is printed.
    for name, recipe in recipes.items():
        layouts = steps.planned_layouts(recipe, launch, gpus)
        stage.add_hours(recipe, opt.stage_options(root), layouts, gpus)
        plans.append({"point": name, "steps": pipeline_steps(recipe), "layouts": layouts})
    if as_json:
        output.print_json(plans)
        return
    for plan in plans:
        print(f"{plan['point']}: {', '.join(plan['steps'])}")
        steps.print_layouts(plan["layouts"], gpus)
        stage.print_hours(plan["layouts"])


def _figures_by_row(changes: "dict[str, dict[str, list[Record]]]") -> "dict[str, list[Record]]":
    """The figures of each model at each point, by the title of their row."""
    figures_by_row: dict[str, list[Record]] = {}
    for point, models in changes.items():
        for model, figures in models.items():
            # The base model is the same at every point, so it has one row.
            if model == "base":
                figures_by_row[model] = figures
            else:
                figures_by_row[f"{model}, {point}"] = figures
    return figures_by_row


def _recipe_of_point(name: str, point: tuple[str, ...], seed: int | None, limit: int | None) -> "Recipe":
    recipe = opt.load_recipe(name, list(point), seed=seed)
    if limit is None:
        return recipe
    return opt.load_recipe(name, list(point), seed=seed, **{opt.limit_key(recipe): limit})


def _command_of_point(
    recipe: str, point: tuple[str, ...], root: Path, name: str, seed: int | None, limit: int | None, launch: str
) -> str:
    """The command that runs one point. Its runs get a folder of their own, so that points may run on many machines."""
    from safereason.recipe.sweep import folder

    words = ["safereason", *steps.words_of(recipe, point, root / folder(name), seed, limit)]
    if launch != "auto":
        words += ["--launch", launch]
    return shlex.join(words)


def _print_commands(commands: dict[str, str], as_json: bool) -> None:
    if as_json:
        output.print_json([{"point": name, "command": command} for name, command in commands.items()])
    else:
        print("\n".join(commands.values()))
