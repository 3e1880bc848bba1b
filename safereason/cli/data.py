"""`safereason data`: list sources, build a recipe's data, and look at rows."""

from typing import Annotated

import typer

from safereason.cli import data_ls, data_overlap, data_show, data_traces, data_verify, stage
from safereason.cli import options as opt

app = opt.group("List sources, build a recipe's data, and look at rows.")


app.command("ls", epilog=data_ls.EXAMPLES)(data_ls.ls)


@app.command(
    "build",
    epilog=opt.examples(
        "safereason data build --recipe tars-smoke",
        "safereason data build --recipe tars-1.5b --dry-run",
        "safereason data build --recipe tars-1.5b data.harmful_ratio=0.7 data.without_sources=[rainbow]",
    ),
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
        bool, typer.Option("--allow-missing", help="Go on without the sources that cannot be had; the card names them.")
    ] = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write a recipe's training prompts and traces, with a card that counts them."""
    from safereason.stages import data as stage_data
    from safereason.stages import training_sources

    chosen = opt.load_recipe(recipe, overrides, seed=seed)
    options = opt.stage_options(root, out, resume=resume, overwrite=overwrite)
    if dry_run:
        read = [f"read {what}: {how}" for what, how in training_sources.status(chosen, options).items()]
        stage.print_steps(chosen, [*read, f"build the {chosen.data.mix} mix into {out or root / 'data'}/"], as_json)
    else:
        stage.carry_out(lambda: stage_data.run(chosen, options, allow_missing=allow_missing), as_json)


app.command("show", epilog=data_show.EXAMPLES)(data_show.show)
app.command("traces", epilog=data_traces.EXAMPLES)(data_traces.traces)
app.command("overlap", epilog=data_overlap.EXAMPLES)(data_overlap.overlap)
app.command("verify", epilog=data_verify.EXAMPLES)(data_verify.verify)
