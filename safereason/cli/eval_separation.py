"""`safereason eval separation`: how far apart harmful and harmless prompts lie inside a model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from safereason.cli import options as opt
from safereason.cli import stage

FIGURES = ("margin", "accuracy", "margin_c0.1", "accuracy_c0.1")
"""What may have a bar."""
EXAMPLES = opt.examples(
    "safereason eval separation --model embedded/smollm2-135m --limit 100",
    "safereason eval separation --model runs/rl/RUN --cases runs/attack/gcg/RUN/cases.jsonl --projection umap",
)

Cases = Annotated[
    list[Path] | None,
    typer.Option("--cases", metavar="FILE", help="Test cases, in place of plain harmful prompts; may be repeated."),
]
Projection = Annotated[
    Literal["pca", "umap"],
    typer.Option("--projection", help="From embeddings to the plane: umap is the paper's (safereason[umap])."),
]


def separation(
    overrides: opt.Overrides = None,
    recipe: opt.MaybeRecipe = None,
    model: opt.Model = None,
    cases: Cases = None,
    projection: Projection = "pca",
    limit: opt.Limit = None,
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
    from safereason.stages import separation as stage_separation

    bars = opt.bars("separation", FIGURES, fail_under, fail_over)
    chosen = opt.recipe_of(recipe, model, overrides, seed)
    options = opt.stage_options(root, out, model, resume, overwrite)
    if dry_run:
        plan = stage_separation.make_plan(chosen, cases or (), projection, limit)
        attacked = ", ".join(f"test cases of {path}" for path in plan.cases) or f"prompts of {plan.harmful}"
        subject = model or f"the newest trained model of {chosen.name}"
        most = f"at most {plan.limit}" if plan.limit else "all"
        step = f"look into {subject} at {most} harmful {attacked} and {most} harmless prompts of {plan.harmless}"
        stage.print_steps(chosen, [f"{step}, {projection} and a linear SVM"], as_json)
        return
    result = stage.carry_out(
        lambda: stage_separation.run(chosen, options, cases=cases or (), projection=projection, limit=limit), as_json
    )
    stage.hold(result, bars, junit)
