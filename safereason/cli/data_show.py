"""`safereason data show`: rows of a source, a run or a file, as a person reads them."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from safereason.cli import options as opt
from safereason.cli import rendered, rows
from safereason.console import say
from safereason.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = opt.examples(
    "safereason data show harmbench",
    "safereason data show runs/data/RUN --kind harmful --skip 10",
    "safereason data show runs/data/RUN/traces.parquet --rendered --recipe tars-smoke",
    "safereason data show runs/rl/RUN --match sorry --limit 3 --json",
)
SHOWN = 10
"""Rows where nobody says how many and there is no pager."""

Target = Annotated[
    str,
    typer.Argument(metavar="SOURCE|RUN|FILE", help="A data source, a run directory, or a file of rows."),
]
Split = Annotated[
    Literal["train", "test"] | None,
    typer.Option("--split", help="What a source is read as; by default train, where it serves that."),
]
Traces = Annotated[bool, typer.Option("--traces", help="A source's reasoning traces, in place of its prompts.")]
IsRendered = Annotated[
    bool, typer.Option("--rendered", help="Print the training text token for token, its trained part marked.")
]
Kind = Annotated[str | None, typer.Option("--kind", help="Only rows of this kind: harmful, harmless or ambiguous.")]
Origin = Annotated[str | None, typer.Option("--source", metavar="NAME", help="Only rows of this source.")]
Label = Annotated[str | None, typer.Option("--label", help="Only rows of this label: safe or unsafe.")]
Category = Annotated[str | None, typer.Option("--category", metavar="NAME", help="Only rows of this category.")]
Id = Annotated[str | None, typer.Option("--id", metavar="ID", help="Only rows of this id.")]
Match = Annotated[
    str | None, typer.Option("--match", metavar="TEXT", help="Only rows with this in one of their texts, in any case.")
]
Skip = Annotated[int, typer.Option("--skip", min=0, metavar="N", help="Pass over the first N rows.")]
NoPager = Annotated[bool, typer.Option("--no-pager", help=f"On a terminal, too, print {SHOWN} rows and stop.")]


def show(
    target: Target,
    split: Split = None,
    traces: Traces = False,
    kind: Kind = None,
    source: Origin = None,
    label: Label = None,
    category: Category = None,
    id: Id = None,
    match: Match = None,
    skip: Skip = 0,
    limit: opt.Limit = None,
    is_rendered: IsRendered = False,
    recipe: opt.MaybeRecipe = None,
    model: opt.Model = None,
    no_pager: NoPager = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Print examples, rollouts or completions so that a person can read them; on a terminal, page through them all."""
    wanted = rows.Filter(kind, source, label, id, category, match)
    opened = rows.open_rows(target, split, traces)
    render = _renderer(recipe, model) if is_rendered else None
    browses = limit is None and not (no_pager or as_json) and rows.can_browse()
    numbered = rows.select(opened.rows, wanted, skip, limit if limit or browses else SHOWN)
    if as_json:
        rows.print_json({**row, "rendered": render(row)} if render else row for _, row in numbered)
        return
    coloured = rows.has_colour()
    texts = (rows.text(number, row, render(row) if render else None, coloured) for number, row in numbered)
    found = rows.browse(texts) if browses else _print(texts, limit)
    if not found:
        asked = str(wanted)
        say(f"{opened.name}: no such row{f' as {asked}' if asked else ''}")


def _print(texts: "Iterator[str]", limit: int | None) -> bool:
    count = 0
    for text in texts:
        print(text, end="")
        count += 1
    if count == SHOWN and limit is None:
        say(f"{SHOWN} rows; --limit N shows more")
    return bool(count)


def _renderer(recipe: str | None, model: str | None) -> rendered.Render:
    """Renders rows for a model, and as a recipe's guard is asked about them where the recipe has one."""
    chosen = opt.load_recipe(recipe, None) if recipe else None
    spec = model or (chosen.model if chosen else None)
    if spec is None:
        raise InputError("--rendered needs a tokenizer; name one with --recipe or --model")
    return rendered.renderer(spec, chosen)
