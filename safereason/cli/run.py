"""`safereason run`: every stage of a recipe in a row."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import output, stage, steps
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.recipe.schema import Recipe
    from safereason.stages.base import Options
    from safereason.training.fit import Gpus

EXAMPLES = opt.examples(
    "safereason run --recipe tars-smoke",
    "safereason run --recipe tars-1.5b data.harmful_ratio=0.7 --dry-run",
    "safereason run --recipe tars-1.5b --dry-run --gpus 4x48GB",
)
StepName = Annotated[
    str | None, typer.Option("--step", metavar="STEP", help="Only this step, as --dry-run lists it; without a report.")
]


def run(
    recipe: opt.RecipeName,
    overrides: opt.Overrides = None,
    model: opt.Model = None,
    root: opt.Root = opt.RUNS,
    limit: opt.Limit = None,
    seed: opt.Seed = None,
    step: StepName = None,
    launch: opt.LaunchOption = "auto",
    gpus: opt.PlannedGpus = None,
    dry_run: opt.DryRun = False,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Run data, training, eval and report; finished parts are skipped and unfinished ones resumed."""
    from safereason.stages import pipeline
    from safereason.training import layout

    chosen = opt.load_recipe(recipe, overrides, seed=seed, model=model)
    # Which key the limit sets depends on the recipe, so that has to be loaded first.
    if limit is not None:
        chosen = opt.load_recipe(recipe, overrides, seed=seed, model=model, **{opt.limit_key(chosen): limit})
    options = opt.stage_options(root, resume=resume, overwrite=overwrite)
    planned = opt.planned_gpus(gpus, dry_run)
    if step is not None and dry_run:
        raise InputError("--step and --dry-run exclude each other; pass one of them")
    if dry_run:
        _print_plan(chosen, options, launch, planned or layout.gpus_here(), as_json)
        return
    if step is not None:
        steps.run_one(chosen, options, step, launch, as_json)
        return
    words = steps.words_of(recipe, overrides or (), root, seed, limit, model)
    start = steps.starter(words, chosen, options, launch, layout.gpus_here())
    with output.results_only():
        result = pipeline.run_pipeline(chosen, options, start=start)
    if as_json:
        output.print_json({"run": str(result.run), "metrics": result.metrics})
    else:
        stage.print_changes(result.metrics["changes"])
        print(f"report: {result.metrics['report']}")


def _print_plan(recipe: "Recipe", options: "Options", launch: str, gpus: "Gpus | None", as_json: bool) -> None:
    """Prints the recipe, the steps, the layout of each step that opens a model, and the hours of the trainings."""
    from safereason.recipe.load import resolved
    from safereason.stages import pipeline

    names = pipeline.pipeline_steps(recipe)
    # A training that does not fit ends the plan before anything is printed.
    layouts = steps.planned_layouts(recipe, launch, gpus)
    stage.add_hours(recipe, options, layouts, gpus)
    placements = pipeline.planned_placements(recipe, replace(options, planned_gpus=gpus))
    steps.add_shards(recipe, layouts, placements)
    if as_json:
        document = {"recipe": resolved(recipe), "steps": names, "layouts": layouts, "placement": placements}
        output.print_json(document)
        return
    stage.print_steps(recipe, names, as_json)
    steps.print_layouts(layouts, gpus)
    stage.print_hours(layouts)
    stage.print_placements(placements)
