"""`safereason eval separation`: the distance between harmful and harmless prompts inside a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from safereason.cli import options as opt
from safereason.cli import stage

if TYPE_CHECKING:
    from safereason.stages.separation import SeparationPlan

EXAMPLES = opt.examples(
    "safereason eval separation --model embedded/smollm2-135m --limit 100",
    "safereason eval separation --model runs/rl/RUN --cases runs/attack/gcg/RUN/cases.jsonl --projection umap",
)

Cases = Annotated[
    list[Path] | None,
    typer.Option("--cases", metavar="FILE", help="Test cases, in place of plain harmful prompts; repeatable."),
]
ProjectionOption = Annotated[
    Literal["pca", "umap"],
    typer.Option("--projection", help="Projection to the plane; umap, as in the paper, needs safereason[umap]."),
]


def separation(
    overrides: opt.Overrides = None,
    recipe: opt.MaybeRecipe = None,
    model: opt.Model = None,
    cases: Cases = None,
    projection: ProjectionOption = "pca",
    limit: opt.Limit = None,
    precision: opt.PrecisionOption = None,
    fail_under: opt.FailUnder = None,
    fail_over: opt.FailOver = None,
    junit: opt.JUnit = None,
    out: opt.Out = None,
    root: opt.Root = opt.RUNS,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Measure how far apart harmful and harmless prompts lie inside the model, and draw it."""
    from safereason.evals import SEPARATION
    from safereason.stages import separation as stage_separation

    bars = opt.parse_bars(SEPARATION.name, SEPARATION.reports, fail_under, fail_over)
    chosen = opt.recipe_of(recipe, model, overrides, seed)
    options = opt.stage_options(root, out, model, resume, overwrite, precision=precision)
    # `--base-url` is missing above: a server shows no inner states.
    request = stage_separation.SeparationRequest(cases or (), projection, limit)
    if dry_run:
        plan = stage_separation.plan_separation(chosen, request)
        stage.print_steps(chosen, [_separation_step(plan, model, chosen.name)], as_json)
        return
    result = stage.run_and_print(lambda: stage_separation.run_separation(chosen, options, request), as_json)
    stage.check_bars(result, bars, junit)


def _separation_step(plan: "SeparationPlan", model: str | None, recipe: str) -> str:
    """The plan of the measurement as one sentence, for a dry run."""
    subject = model or f"the newest trained model of {recipe}"
    amount = "all"
    if plan.limit:
        amount = f"at most {plan.limit}"
    cases = [f"test cases of {path}" for path in plan.cases]
    harmful = ", ".join(cases) or f"prompts of {plan.harmful}"
    return (
        f"look into {subject} at {amount} harmful {harmful} and {amount} harmless prompts of {plan.harmless}, "
        f"{plan.projection} and a linear SVM"
    )
