"""`safereason eval capability`: the abilities that a model keeps, by tasks of lm-evaluation-harness."""

from pathlib import Path
from typing import Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import stage

EXAMPLES = opt.examples(
    "safereason eval capability --model runs/rl/RUN --tasks gsm8k_cot_zeroshot,mmlu_pro --limit 100",
    "safereason eval capability --model runs/rl/RUN eval.sampling.max_new_tokens=4096",
    "safereason eval capability --model runs/rl/RUN --include tasks --tasks mine --fail-under acc/mine=0.5",
)

Tasks = Annotated[
    str | None,
    typer.Option("--tasks", metavar="NAME,...", help="Tasks by lm-eval's names; by default ones like the paper's."),
]
Include = Annotated[
    Path | None, typer.Option("--include", metavar="DIR", help="Folder with further tasks in lm-eval's YAML.")
]
Shots = Annotated[
    int | None,
    typer.Option("--shots", min=0, metavar="N", help="Examples in each prompt, in place of the tasks' own number."),
]


def capability(
    overrides: opt.Overrides = None,
    recipe: opt.MaybeRecipe = None,
    model: opt.Model = None,
    base_url: opt.BaseUrl = None,
    tasks: Tasks = None,
    include: Include = None,
    shots: Shots = None,
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
    """Measure what the model can still do; `--limit N` takes the first N items of each task."""
    from safereason.evals import CAPABILITY
    from safereason.stages import capability as stage_capability

    # lm-eval's tasks bring figures of their own, so a bar's name is checked once they are measured.
    bars = opt.parse_bars(CAPABILITY.name, CAPABILITY.reports, fail_under, fail_over)
    chosen = opt.recipe_of(recipe, model, overrides, seed)
    options = opt.stage_options(root, out, model, resume, overwrite, base_url, precision)
    request = stage_capability.CapabilityRequest(_task_names(tasks), include, shots, limit)
    if dry_run:
        plan = stage_capability.plan_capability(chosen, request)
        subject = model or f"the newest trained model of {chosen.name}"
        amount = f"the first {plan.limit} items" if plan.limit else "all items"
        steps = [f"ask {subject} {amount} of {name} through lm-eval" for name in plan.tasks]
        stage.print_steps(chosen, steps, as_json)
        return
    result = stage.run_and_print(lambda: stage_capability.run_capability(chosen, options, request), as_json)
    stage.check_bars(result, bars, junit)


def _task_names(text: str | None) -> list[str]:
    """The names of a list with commas; without a list, the tasks like the paper's."""
    names = [name.strip() for name in (text or "").split(",")]
    return [name for name in names if name]
