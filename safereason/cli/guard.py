"""`safereason guard`: a guard, a model that reasons over a policy before it calls a text safe or unsafe."""

from safereason.cli import groups, launched, stage
from safereason.cli import options as opt

app = groups.group(
    "Train, run and serve a guard that reasons before its verdict.",
    groups.imported("guard classify", "guard_classify:classify"),
    groups.imported("guard serve", "guard_serve:serve"),
    groups.imported("guard policy", "guard_policy:app"),
)


@app.command(
    "train",
    epilog=opt.examples(
        "safereason guard train --recipe rsafe-smoke",
        "safereason guard train --recipe rsafe --dry-run",
        "safereason guard train --recipe rsafe guard.policy=my-policy.yaml",
    ),
)
def train(
    recipe: opt.RecipeName,
    overrides: opt.Overrides = None,
    model: opt.Model = None,
    out: opt.Out = None,
    root: opt.Root = opt.RUNS,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    backend: opt.BackendOption = "trl",
    gpus_per_node: opt.GpusPerNode = None,
    nodes: opt.Nodes = None,
    export: opt.Export = None,
    trained: opt.Import = None,
    launch: opt.LaunchOption = "auto",
    gpus: opt.PlannedGpus = None,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train a guard on the labelled rows that `data build` wrote: by SFT where the recipe has it, then by GRPO."""
    from safereason.stages import guard as stage_guard

    chosen = opt.load_recipe(recipe, overrides, seed=seed)
    options = opt.stage_options(root, out, model, resume, overwrite)
    verl_backend = opt.parse_verl(backend, launch, gpus, gpus_per_node, nodes, export, trained)
    # verl gets the data and the settings of the same training, without a trainer of ours.
    if verl_backend:
        stage.train_with_verl(
            stage_guard.guard_for_verl(chosen, options), chosen, options, verl_backend, dry_run, as_json
        )
    else:
        keys = ("guard.sft", "guard.train")
        layout = launched.choose(launch, opt.planned_gpus(gpus, dry_run), chosen, options, keys)
        stage.train(stage_guard.train_guard, stage_guard.guard_outline, chosen, options, layout, dry_run, as_json)
