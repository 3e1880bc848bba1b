"""`safereason sft`: supervised fine-tuning on reasoning traces."""

from safereason.cli import launched, stage
from safereason.cli import options as opt

EXAMPLES = opt.examples(
    "safereason sft --recipe tars-smoke",
    "safereason sft --recipe tars-1.5b sft.learning_rate=1e-4 sft.epochs=6 --dry-run",
    "safereason sft --recipe tars-7b --dry-run --gpus 4x48GB",
    "safereason sft --recipe tars-7b --launch accelerate:fsdp2",
)


def sft(
    recipe: opt.RecipeName,
    overrides: opt.Overrides = None,
    model: opt.Model = None,
    out: opt.Out = None,
    root: opt.Root = opt.RUNS,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    launch: opt.LaunchOption = "auto",
    gpus: opt.PlannedGpus = None,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Fine-tune a model on the reasoning traces that `data build` wrote."""
    from safereason.stages import sft as stage_sft

    chosen = opt.load_recipe(recipe, overrides, seed=seed)
    options = opt.stage_options(root, out, model, resume, overwrite)
    layout = launched.choose(launch, opt.planned_gpus(gpus, dry_run), chosen, options, ("sft",))
    stage.train(stage_sft.train_sft, stage_sft.sft_outline, chosen, options, layout, dry_run, as_json)
