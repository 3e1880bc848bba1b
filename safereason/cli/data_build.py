"""`safereason data build`: a recipe's training prompts and traces."""

from typing import Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import stage

EXAMPLES = opt.examples(
    "safereason data build --recipe tars-smoke",
    "safereason data build --recipe tars-1.5b --dry-run",
    "safereason data build --recipe tars-1.5b data.harmful_ratio=0.7 data.without_sources=[rainbow]",
)


def build(
    recipe: opt.RecipeName,
    overrides: opt.Overrides = None,
    out: opt.Out = None,
    root: opt.Root = opt.RUNS,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Continue without sources that are not available; the card names them."),
    ] = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write a recipe's training prompts and traces, with a card that counts them."""
    from safereason.stages import data as stage_data
    from safereason.stages.preparation import training_sources

    chosen = opt.load_recipe(recipe, overrides, seed=seed)
    options = opt.stage_options(root, out, resume=resume, overwrite=overwrite)
    # A dry run shows which sources are missing without building anything.
    if dry_run:
        steps = [f"read {name}: {state}" for name, state in training_sources.source_status(chosen, options).items()]
        steps.append(f"build the {chosen.data.mix} mix into {out or root / 'data'}/")
        stage.print_steps(chosen, steps, as_json)
    else:
        stage.run_and_print(lambda: stage_data.build_data(chosen, options, allow_missing=allow_missing), as_json)
