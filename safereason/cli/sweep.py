"""`safereason sweep`: a recipe at several values."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safereason.cli import options as opt
from safereason.cli import output, stage

if TYPE_CHECKING:
    from safereason.recipe.schema import Recipe

EXAMPLES = opt.examples(
    "safereason sweep --recipe tars-1.5b data.harmful_ratio=0.1,0.3,0.5,0.7,0.9",
    "safereason sweep --recipe tars-smoke seed=0,1,2 rl.kl_coef=0.0,1e-3 --print",
    "safereason sweep --recipe tars-1.5b data.harmful_ratio=0.1,0.3,0.5,0.7,0.9 --shard 2/5",
)

Varied = Annotated[
    list[str], typer.Argument(metavar="SECTION.KEY=VALUE,VALUE", help="Values in place of the recipe's; each is tried.")
]
Print = Annotated[
    bool, typer.Option("--print", help="Print a command a point, each with a folder of its own, and stop.")
]


def sweep(
    overrides: Varied,
    recipe: opt.RecipeName,
    root: opt.Root = opt.RUNS,
    limit: opt.Limit = None,
    seed: opt.Seed = None,
    shard: opt.Shard = None,
    printed: Print = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Run a recipe at every combination of the values, then one report over all; what is finished is skipped."""
    from safereason.recipe.sweep import label, points

    texts = {label(point, overrides): point for point in points(overrides)}
    loaded = {name: _recipe(recipe, point, seed, limit) for name, point in texts.items()}
    part = opt.shard_of(shard)
    if printed:
        _print({name: _command(recipe, texts[name], root, name, seed, limit) for name in loaded}, as_json)
        return
    _run(recipe, loaded, root, part, as_json)


def _run(name: str, points: "dict[str, Recipe]", root: Path, part: tuple[int, int] | None, as_json: bool) -> None:
    from safereason.stages import sweep as stage_sweep

    options = opt.stage_options(root)
    with output.results_only():
        if part is not None:
            found = stage_sweep.run_shard(stage_sweep.shard(points, part), options)
        else:
            found = stage_sweep.run(points, options, f"{Path(name).stem}, {len(points)} settings").metrics
    if as_json:
        output.print_json(found)
        return
    stage.print_changes(_by_row(found["changes"]))
    if "report" in found:
        print(f"report: {found['report']}")


def _by_row(changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures by what the row is called; the base model is the same at every point."""
    return {
        model if model == "base" else f"{model}, {point}": figures
        for point, models in changes.items()
        for model, figures in models.items()
    }


def _recipe(name: str, point: tuple[str, ...], seed: int | None, limit: int | None) -> "Recipe":
    recipe = opt.load_recipe(name, list(point), seed=seed)
    if limit is None:
        return recipe
    return opt.load_recipe(name, list(point), seed=seed, **{opt.limit_key(recipe): limit})


def _command(recipe: str, point: tuple[str, ...], root: Path, name: str, seed: int | None, limit: int | None) -> str:
    from safereason.recipe.sweep import folder

    given = {"--seed": seed, "--limit": limit}
    options = [word for option, value in given.items() if value is not None for word in (option, str(value))]
    return shlex.join(["safereason", "run", "--recipe", recipe, *point, *options, "--root", str(root / folder(name))])


def _print(commands: dict[str, str], as_json: bool) -> None:
    if as_json:
        output.print_json([{"point": name, "command": command} for name, command in commands.items()])
    else:
        print("\n".join(commands.values()))
