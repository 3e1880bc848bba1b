"""`safereason data traces`: reasoning traces for SFT, written by a teacher."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import stage
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.stages.preparation.teacher import Price

EXAMPLES = opt.examples(
    "safereason data traces --recipe tars-1.5b --model openai/deepseek-reasoner --dry-run --price 0.55,2.19",
    "safereason data traces --recipe tars-1.5b --model runs/sft/RUN data.teacher.samples=4",
)

PriceText = Annotated[
    str | None, typer.Option("--price", metavar="IN,OUT", help="USD per million tokens read and written.")
]
AllowFailed = Annotated[
    bool, typer.Option("--allow-failed", help="Finish although some replies failed, and say how many.")
]


def traces(
    recipe: opt.RecipeName,
    overrides: opt.Overrides = None,
    model: opt.Model = None,
    base_url: opt.BaseUrl = None,
    precision: opt.PrecisionOption = None,
    limit: opt.Limit = None,
    price: PriceText = None,
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
    from safereason.stages import traces as stage_traces
    from safereason.stages.preparation import teacher

    parsed_price = _parse_price(price) if price else None
    chosen = opt.load_recipe(recipe, overrides, seed=seed)
    options = opt.stage_options(root, out, model, resume, overwrite, base_url, precision)
    # With a price, the plan also estimates the cost. No request is sent for it.
    if dry_run:
        plan = teacher.plan_teacher(chosen, options, limit)
        stage.print_plan(chosen, teacher.teacher_outline(plan, parsed_price), as_json)
    else:
        stage.run_and_print(
            lambda: stage_traces.write_traces(
                chosen, options, limit=limit, price=parsed_price, allow_failed=allow_failed
            ),
            as_json,
        )


def _parse_price(text: str) -> "Price":
    """The price per million tokens read and written, in USD.

    Raises:
        InputError: The text is not two amounts.
    """
    from safereason.stages.preparation.teacher import Price

    try:
        read, written = map(float, text.split(","))
        # float() also reads `nan` and `inf`.
        if not (math.isfinite(read) and math.isfinite(written) and min(read, written) >= 0):
            raise ValueError
    except ValueError:
        raise InputError(
            f"--price {text}: two amounts in USD per million tokens are expected, read and written, such as 0.55,2.19"
        ) from None
    return Price(read, written)
