"""`safereason attack rainbow`: an archive of harmful prompts, by risk and style, against a model of your own."""

from string import ascii_lowercase
from typing import TYPE_CHECKING, Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import output, stage
from safereason.text.visible import visible

if TYPE_CHECKING:
    from safereason.runs.records import Record

EXAMPLES = opt.examples(
    "safereason attack rainbow --recipe tars-1.5b --mutator org/writer --judge moderation --count 800",
    "safereason attack rainbow --recipe tars-smoke --mutator embedded/smollm2-135m --iterations 5 --dry-run",
)

Mutator = Annotated[
    str | None, typer.Option("--mutator", metavar="MODEL", help="Model that writes the prompts, named as for --model.")
]
JudgeName = Annotated[
    str | None,
    typer.Option("--judge", metavar="JUDGE", help="Judge of harm or refusal that scores each answer (`eval ls`)."),
]
JudgeModel = Annotated[
    str | None,
    typer.Option(
        "--judge-model", metavar="MODEL", help="Model that compares two answers and so decides which prompt stays."
    ),
]
Iterations = Annotated[
    int | None, typer.Option("--iterations", min=1, metavar="N", help="Iterations of one archive; 1000 by default.")
]
Count = Annotated[
    int | None,
    typer.Option("--count", min=1, metavar="N", help="Begin new archives until there are N distinct prompts."),
]
Archives = Annotated[
    int | None, typer.Option("--archives", min=1, metavar="N", help="Most archives, with --count; 20 by default.")
]
Prompts = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="SOURCE",
        help="A data source, or a file of examples, to start from its harmful training prompts; by default sample.",
    ),
]
# Prompts are chosen by `--prompts` in every command. Scripts that use the older name go on working.
OldPrompts = Annotated[
    str | None, typer.Option("--seeds", metavar="SOURCE", hidden=True, help="The old name of --prompts.")
]


def rainbow(
    recipe: opt.RecipeName,
    overrides: opt.Overrides = None,
    model: opt.Model = None,
    mutator: Mutator = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    base_url: opt.BaseUrl = None,
    precision: opt.PrecisionOption = None,
    iterations: Iterations = None,
    count: Count = None,
    archives: Archives = None,
    prompts: Prompts = None,
    old_prompts: OldPrompts = None,
    out: opt.Out = None,
    root: opt.Root = opt.RUNS,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Fill an archive of risks and styles with prompts against the recipe's sft model or --model, to train on by RL."""
    from safereason.runs.records import read_record
    from safereason.stages import rainbow as stage_rainbow

    chosen = opt.load_recipe(recipe, overrides, seed=seed)
    options = opt.stage_options(root, out, model, resume, overwrite, base_url, precision)
    # A number after `--prompts` is what `--count` was called before; no source has a number for its name.
    if prompts is not None and prompts.isdecimal():
        count = opt.either_name("--count", count, "--prompts", int(prompts))
        prompts = None
    source = opt.either_name("--prompts", prompts, "--seeds", old_prompts)
    settings = {"iterations": iterations, "prompts": count, "archives": archives}
    request = stage_rainbow.RainbowRequest(mutator, judge, judge_model, source or "sample", settings)
    plan = stage_rainbow.plan_rainbow(chosen, options, request)
    if dry_run:
        stage.print_plan(chosen, stage_rainbow.rainbow_outline(chosen, options, plan), as_json)
        return
    result = stage.run_and_print(lambda: stage_rainbow.run_rainbow(chosen, options, plan), as_json)
    # The grid shows a person where the archive is empty. Programs find the same in the run's own file.
    if not as_json:
        print()
        print_grid(read_record(result.run / stage_rainbow.CELLS))


def print_grid(cells: "Record") -> None:
    """Prints the best score of each cell in percent: a row per risk, a column per style, a dot for an empty cell."""
    scores = {(cell["risk"], cell["style"]): cell["score"] for cell in cells["best"]}
    styles: list[str] = cells["styles"]
    # The names of styles are too long for columns, so letters stand for them, explained below the table.
    letters = [_column_letters(number) for number in range(len(styles))]
    rows: list[list[str]] = []
    for risk in cells["risks"]:
        row = [risk]
        for style in styles:
            score = scores.get((risk, style))
            row.append("." if score is None else f"{100 * score:.0f}")
        rows.append(row)
    output.print_table(("best score, %", *letters), rows)
    print()
    for letter, style in zip(letters, styles, strict=True):
        print(f"{letter}  {visible(style)}")


def _column_letters(number: int) -> str:
    """The name of a column as in a spreadsheet, from 0: `a` to `z`, then `aa`."""
    rest, last = divmod(number, len(ascii_lowercase))
    letter = ascii_lowercase[last]
    if rest:
        return _column_letters(rest - 1) + letter
    return letter
