"""`safereason data traces`: a teacher writes reasoning traces for SFT."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import stage
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.stages.teacher import Price

EXAMPLES = opt.examples(
    "safereason data traces --recipe tars-1.5b --model openai/deepseek-reasoner --dry-run --price 0.55,2.19",
    "safereason data traces --recipe tars-1.5b --model runs/sft/RUN data.teacher.samples=4",
)

AskedPrice = Annotated[
    str | None, typer.Option("--price", metavar="IN,OUT", help="USD per million tokens read and written.")
]
AllowFailed = Annotated[
    bool, typer.Option("--allow-failed", help="End without the replies that the server fails at, and say so.")
]


def traces(
    recipe: opt.RecipeName,
    overrides: opt.Overrides = None,
    model: opt.Model = None,
    base_url: opt.BaseUrl = None,
    limit: opt.Limit = None,
    price: AskedPrice = None,
    allow_failed: AllowFailed = False,
    out: opt.Out = None,
    root: opt.Root = opt.RUNS,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Let a teacher write reasoning traces for sources that have none, for `data build` to use."""
    from safereason.stages import teacher
    from safereason.stages import traces as stage_traces

    asked = _price(price) if price else None
    chosen = opt.load_recipe(recipe, overrides, seed=seed)
    options = opt.stage_options(root, out, model, resume, overwrite, base_url)
    if dry_run:
        plan = teacher.make_plan(chosen, options, limit)
        stage.print_plan(chosen, teacher.outline(plan, asked), as_json)
    else:
        stage.carry_out(
            lambda: stage_traces.run(chosen, options, limit=limit, price=asked, allow_failed=allow_failed), as_json
        )


def _price(text: str) -> "Price":
    from safereason.stages.teacher import Price

    try:
        read, written = map(float, text.split(","))
        if not all(math.isfinite(usd) and usd >= 0 for usd in (read, written)):
            raise ValueError
    except ValueError:
        raise InputError(
            f"--price {text}: two amounts in USD per million tokens are expected, read and written, such as 0.55,2.19"
        ) from None
    return Price(read, written)
