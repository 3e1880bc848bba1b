"""`safereason rl`: GRPO with a reward for safe and helpful answers."""

from safereason.cli import launched, stage
from safereason.cli import options as opt

EXAMPLES = opt.examples(
    "safereason rl --recipe tars-smoke",
    "safereason rl --recipe tars-1.5b rl.kl_coef=0.0 data.harmful_ratio=0.7 --dry-run",
    "safereason rl --recipe tars-7b --backend verl --gpus-per-node 8 --export tars-7b-verl",
)


def rl(
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
    """Train the newest sft model of the recipe, or --model, with GRPO on the prompts that `data build` wrote."""
    from safereason.stages import rl as stage_rl

    chosen = opt.load_recipe(recipe, overrides, seed=seed)
    options = opt.stage_options(root, out, model, resume, overwrite)
    verl_backend = opt.parse_verl(backend, launch, gpus, gpus_per_node, nodes, export, trained)
    # verl gets the data and the settings of the same training, without a trainer of ours.
    if verl_backend:
        stage.train_with_verl(stage_rl.rl_for_verl(chosen, options), chosen, options, verl_backend, dry_run, as_json)
    else:
        layout = launched.choose(launch, opt.planned_gpus(gpus, dry_run), chosen, options, ("rl",))
        stage.train(stage_rl.train_rl, stage_rl.rl_outline, chosen, options, layout, dry_run, as_json)
