"""`safereason attack rainbow`: an archive of harmful prompts, by risk and style, against a model of one's own."""

from collections.abc import Mapping
from string import ascii_lowercase
from typing import Annotated, Any

import typer

from safereason.cli import options as opt
from safereason.cli import output, stage

EXAMPLES = opt.examples(
    "safereason attack rainbow --recipe tars-1.5b --mutator org/writer --judge moderation --prompts 800",
    "safereason attack rainbow --recipe tars-smoke --mutator embedded/smollm2-135m --iterations 5 --dry-run",
)

Mutator = Annotated[
    str | None, typer.Option("--mutator", metavar="MODEL", help="Model that writes the prompts, as of --model.")
]
JudgeName = Annotated[
    str | None,
    typer.Option("--judge", metavar="JUDGE", help="Judge of harm or refusal that scores each answer (`eval ls`)."),
]
JudgeModel = Annotated[
    str | None,
    typer.Option("--judge-model", metavar="MODEL", help="Model that compares two answers and so decides who stays."),
]
Iterations = Annotated[
    int | None, typer.Option("--iterations", min=1, metavar="N", help="Iterations of one archive; 1000 by default.")
]
Prompts = Annotated[
    int | None,
    typer.Option("--prompts", min=1, metavar="N", help="Begin new archives until there are N distinct prompts."),
]
Archives = Annotated[
    int | None, typer.Option("--archives", min=1, metavar="N", help="Most archives, with --prompts; 20 by default.")
]
Seeds = Annotated[
    str,
    typer.Option(
        "--seeds",
        metavar="SOURCE",
        help="A data source, or a file of examples, whose harmful training prompts are begun with.",
    ),
]


def rainbow(
    recipe: opt.RecipeName,
    overrides: opt.Overrides = None,
    model: opt.Model = None,
    mutator: Mutator = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    base_url: opt.BaseUrl = None,
    iterations: Iterations = None,
    prompts: Prompts = None,
    archives: Archives = None,
    seeds: Seeds = "sample",
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
    from safereason.runs.records import read_json
    from safereason.stages import rainbow as stage_rainbow

    chosen = opt.load_recipe(recipe, overrides, seed=seed)
    options = opt.stage_options(root, out, model, resume, overwrite, base_url)
    settings = {"iterations": iterations, "prompts": prompts, "archives": archives}
    plan = stage_rainbow.make_plan(
        chosen, options, mutator=mutator, judge=judge, judge_model=judge_model, seeds=seeds, settings=settings
    )
    if dry_run:
        stage.print_plan(chosen, stage_rainbow.outline(chosen, options, plan), as_json)
        return
    result = stage.carry_out(lambda: stage_rainbow.run(chosen, options, plan), as_json)
    if not as_json:
        print()
        print_grid(read_json(result.run / stage_rainbow.CELLS))


def print_grid(cells: Mapping[str, Any]) -> None:
    """The best score of each cell in percent, a row a risk and a column a style; a dot where nothing was found."""
    scores = {(cell["risk"], cell["style"]): f"{cell['score']:.0%}".rstrip("%") for cell in cells["best"]}
    names = [_letters(place) for place in range(len(cells["styles"]))]
    rows = [(risk, *(scores.get((risk, style), ".") for style in cells["styles"])) for risk in cells["risks"]]
    output.print_table(("best score, %", *names), rows)
    print(
        "\n" + "\n".join(f"{name}  {output.visible(style)}" for name, style in zip(names, cells["styles"], strict=True))
    )


def _letters(place: int) -> str:
    """`a` to `z`, then `aa`."""
    more, last = divmod(place, len(ascii_lowercase))
    return (_letters(more - 1) if more else "") + ascii_lowercase[last]
