"""`safereason run`: every stage of a recipe in a row."""

from safereason.cli import options as opt
from safereason.cli import output, stage

EXAMPLES = opt.examples(
    "safereason run --recipe tars-smoke", "safereason run --recipe tars-1.5b data.harmful_ratio=0.7 --dry-run"
)


def run(
    recipe: opt.RecipeName,
    overrides: opt.Overrides = None,
    model: opt.Model = None,
    root: opt.Root = opt.RUNS,
    limit: opt.Limit = None,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Run data, training, eval and report; finished parts are skipped and unfinished ones resumed."""
    from safereason.stages import pipeline

    chosen = opt.load_recipe(recipe, overrides, seed=seed, model=model)
    # Which key the limit sets depends on the recipe, so that has to be loaded first.
    if limit is not None:
        chosen = opt.load_recipe(recipe, overrides, seed=seed, model=model, **{opt.limit_key(chosen): limit})
    options = opt.stage_options(root, resume=resume, overwrite=overwrite)
    if dry_run:
        stage.print_steps(chosen, pipeline.pipeline_steps(chosen), as_json)
        return
    with output.results_only():
        result = pipeline.run_pipeline(chosen, options)
    if as_json:
        output.print_json({"run": str(result.run), "metrics": result.metrics})
    else:
        stage.print_changes(result.metrics["changes"])
        print(f"report: {result.metrics['report']}")
