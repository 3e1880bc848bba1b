"""`safereason data`: list sources, build a recipe's data, and look at rows."""

from pathlib import Path
from typing import Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import output, pending, rows, stage
from safereason.console import say
from safereason.errors import InputError

app = opt.group("List sources, build a recipe's data, and look at rows.")
SHOWN = 10


@app.command("ls", epilog=opt.examples("safereason data ls", "safereason data ls --json"))
def ls(as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """List the data sources: what each holds, its licence, and the splits it may be used as."""
    from safereason.data.sources import SOURCES

    fields = ("name", "title", "licence", "serves", "traces", "gated", "page")
    found = [
        (
            s.name,
            s.title,
            s.licence,
            ", ".join(s.serves),
            "yes" if s.reasoned else "no",
            "yes" if s.gated else "no",
            s.page,
        )
        for s in SOURCES.values()
    ]
    if as_json:
        output.print_json([dict(zip(fields, row, strict=True)) for row in found])
    else:
        output.print_table(fields, found)


@app.command(
    "build",
    epilog=opt.examples(
        "safereason data build --recipe tars-smoke",
        "safereason data build --recipe tars-smoke data.prompts=40 --dry-run",
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
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write a recipe's training prompts and traces, with a card that counts them."""
    from safereason.stages import data as stage_data

    chosen = opt.load_recipe(recipe, overrides, seed=seed)
    options = opt.stage_options(root, out, resume=resume, overwrite=overwrite)
    if dry_run:
        stage.print_steps(chosen, [f"build the {chosen.data.mix} mix into {out or root / 'data'}/"], as_json)
    else:
        stage.carry_out(lambda: stage_data.run(chosen, options), as_json)


@app.command(
    "show",
    epilog=opt.examples(
        "safereason data show runs/rl/RUN/rollouts.jsonl --limit 3",
        "safereason data show runs/data/RUN --kind harmful --skip 10",
        "safereason data show runs/data/RUN --rendered --recipe tars-smoke",
    ),
)
def show(
    target: Annotated[Path, typer.Argument(metavar="FILE|RUN", help="A .parquet or .jsonl file, or a run directory.")],
    rendered: Annotated[
        bool, typer.Option("--rendered", help="Print the training text token for token, its trained part marked.")
    ] = False,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Only rows of this kind: harmful, harmless or ambiguous.")
    ] = None,
    skip: Annotated[int, typer.Option("--skip", min=0, metavar="N", help="Pass over the first N rows.")] = 0,
    limit: opt.Limit = SHOWN,
    recipe: opt.MaybeRecipe = None,
    model: opt.Model = None,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Print examples, rollouts or completions so that a person can read them."""
    path = rows.file_of(target)
    render = _renderer(recipe, model) if rendered else None
    shown = rows.select(path, kind, skip, limit)
    if as_json:
        output.print_json([{**row, "rendered": render(row)} if render else row for _, row in shown])
        return
    for number, row in shown:
        rows.print_row(number, row, render(row) if render else None)
    if not shown:
        say(f"{path}: no such row")


def _renderer(recipe: str | None, model: str | None) -> "rows.Render":
    """Renders rows for a model, and as a recipe's guard is asked about them where the recipe has one."""
    chosen = opt.load_recipe(recipe, None) if recipe else None
    spec = model or (chosen.model if chosen else None)
    if spec is None:
        raise InputError("--rendered needs a tokenizer; name one with --recipe or --model")
    return rows.renderer(spec, chosen.guard if chosen else None)


pending.add(
    app,
    "data traces",
    "Write SFT reasoning traces with a teacher model",
    "safereason data traces --recipe tars-1.5b --model openai/deepseek-reasoner",
)


@app.command(
    "verify", epilog=opt.examples("safereason data verify prompts.jsonl", "safereason data verify prompts.jsonl --json")
)
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jsonl or .parquet file of examples.")],
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Check every row of a file of examples, and name each bad one by its line."""
    count, problems = rows.verify(file)
    if as_json:
        output.print_json(
            {"file": str(file), "rows": count, "problems": [{"line": n, "problem": p} for n, p in problems]}
        )
    else:
        for number, problem in problems:
            print(output.visible(f"{file}:{number}: {problem}"))
    if problems:
        bad = len({number for number, _ in problems})
        raise InputError(f"{file}: {bad} of {count} rows {'is' if bad == 1 else 'are'} bad; mend or delete them")
    if not as_json:
        print(f"{file}: ok, {count} rows")
