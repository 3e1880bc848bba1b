"""`safereason run`: every stage of a recipe in a row."""

from typing import Any

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
    if limit is not None:
        key = "guard.eval.limit" if chosen.guard else "eval.limit"
        chosen = opt.load_recipe(recipe, overrides, seed=seed, model=model, **{key: limit})
    options = opt.stage_options(root, resume=resume, overwrite=overwrite)
    if dry_run:
        stage.print_steps(chosen, pipeline.steps(chosen), as_json)
        return
    with output.results_only():
        result = pipeline.run(chosen, options)
    if as_json:
        output.print_json({"run": str(result.run), "metrics": result.metrics})
    else:
        _print_changes(result.metrics)


def _print_changes(metrics: dict[str, Any]) -> None:
    """A table with a row a model and a column a figure, then where the report is."""
    by_model = {
        model: {f"{figure['name']} ({figure['eval']})": output.interval(figure) for figure in figures}
        for model, figures in metrics["changes"].items()
    }
    columns = list(dict.fromkeys(column for figures in by_model.values() for column in figures))
    if columns:
        rows = [(model, *(figures.get(column, "-") for column in columns)) for model, figures in by_model.items()]
        output.print_table(("model", *columns), rows)
    print(f"report: {metrics['report']}")
