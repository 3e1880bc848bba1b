"""`safereason rl`: GRPO with a reward for safe and helpful answers."""

from safereason.cli import options as opt
from safereason.cli import stage

EXAMPLES = opt.examples(
    "safereason rl --recipe tars-smoke",
    "safereason rl --recipe tars-1.5b rl.kl_coef=0.0 data.harmful_ratio=0.7 --dry-run",
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
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train the newest sft model of the recipe, or --model, with GRPO on the prompts that `data build` wrote."""
    from safereason.stages import rl as stage_rl

    chosen = opt.load_recipe(recipe, overrides, seed=seed)
    options = opt.stage_options(root, out, model, resume, overwrite)
    if dry_run:
        stage.print_plan(chosen, stage_rl.plan(chosen, options), as_json)
    else:
        stage.carry_out(lambda: stage_rl.run(chosen, options), as_json)
