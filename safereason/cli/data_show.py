"""`safereason data show`: rows of a source, a run or a file in a form for people."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from safereason.cli import options as opt
from safereason.console import say
from safereason.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from safereason.cli.rendered import Render, TableRow
    from safereason.cli.rows import Numbered

EXAMPLES = opt.examples(
    "safereason data show harmbench",
    "safereason data show runs/data/RUN --kind harmful --skip 10",
    "safereason data show runs/data/RUN/traces.parquet --rendered --recipe tars-smoke",
    "safereason data show runs/rl/RUN --match sorry --limit 3 --json",
)
# Rows that are printed without `--limit` and without a pager: enough to see the form of the data.
SHOWN_ROWS = 10

Target = Annotated[
    str,
    typer.Argument(metavar="SOURCE|RUN|FILE", help="A data source, a run directory, or a file of rows."),
]
SplitOption = Annotated[
    Literal["train", "test"] | None,
    typer.Option("--split", help="Split of a source; by default train, if the source serves it."),
]
Traces = Annotated[bool, typer.Option("--traces", help="A source's reasoning traces, in place of its prompts.")]
IsRendered = Annotated[
    bool, typer.Option("--rendered", help="Print the training text token for token, its trained part marked.")
]
KindOption = Annotated[
    str | None, typer.Option("--kind", help="Only rows of this kind: harmful, harmless or ambiguous.")
]
SourceOption = Annotated[str | None, typer.Option("--source", metavar="NAME", help="Only rows of this source.")]
LabelOption = Annotated[str | None, typer.Option("--label", help="Only rows of this label: safe or unsafe.")]
CategoryOption = Annotated[str | None, typer.Option("--category", metavar="NAME", help="Only rows of this category.")]
IdOption = Annotated[str | None, typer.Option("--id", metavar="ID", help="Only rows of this id.")]
MatchOption = Annotated[
    str | None, typer.Option("--match", metavar="TEXT", help="Only rows with this in one of their texts, in any case.")
]
Skip = Annotated[int, typer.Option("--skip", min=0, metavar="N", help="Pass over the first N rows.")]
NoPager = Annotated[bool, typer.Option("--no-pager", help=f"On a terminal, too, print {SHOWN_ROWS} rows and stop.")]


def show_rows(
    target: Target,
    split: SplitOption = None,
    traces: Traces = False,
    kind: KindOption = None,
    source: SourceOption = None,
    label: LabelOption = None,
    category: CategoryOption = None,
    id: IdOption = None,
    match: MatchOption = None,
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
    from safereason.cli import rows

    row_filter = rows.Filter(kind, source, label, id, category, match)
    opened = rows.open_rows(target, split, traces)
    render = _row_renderer(recipe, model) if is_rendered else None
    # A limit asks for a few rows, which need no pager.
    uses_pager = limit is None and not (no_pager or as_json) and rows.can_browse()
    most = limit
    if limit is None and not uses_pager:
        most = SHOWN_ROWS
    numbered = rows.select(opened.rows, row_filter, skip, most)
    if as_json:
        rows.print_json_rows(_with_rendering(numbered, render))
        return
    texts = _row_texts(numbered, render)
    has_rows = rows.browse(texts) if uses_pager else _print_texts(texts, limit)
    if not has_rows:
        message = f"{opened.name}: no such row"
        if filters := str(row_filter):
            message += f" as {filters}"
        say(message)


def _with_rendering(numbered: "Iterable[Numbered]", render: "Render | None") -> "Iterator[TableRow]":
    """The rows, each with its rendering where there is one."""
    for _, row in numbered:
        if render is None:
            yield row
        else:
            yield {**row, "rendered": render(row)}


def _row_texts(numbered: "Iterable[Numbered]", render: "Render | None") -> "Iterator[str]":
    """The text of each row. Rows are made one by one, as a pager asks for them: a source may be larger than memory."""
    from safereason.cli import rows

    coloured = rows.has_colour()
    for number, row in numbered:
        rendering = render(row) if render else None
        yield rows.text_of_row(number, row, rendering, coloured)


def _print_texts(texts: "Iterator[str]", limit: int | None) -> bool:
    """Whether there was any text; all are printed."""
    count = 0
    for text in texts:
        print(text, end="")
        count += 1
    # No option limited the rows, so the person should know that there may be more.
    if count == SHOWN_ROWS and limit is None:
        say(f"{SHOWN_ROWS} rows; --limit N shows more")
    return bool(count)


def _row_renderer(recipe: str | None, model: str | None) -> "Render":
    """A function that renders rows for a model; where the recipe has a guard, inside the guard's prompt."""
    from safereason.cli.rendered import renderer

    chosen = opt.load_recipe(recipe, None) if recipe else None
    spec = model or None
    if spec is None and chosen is not None:
        spec = chosen.model
    if spec is None:
        raise InputError("--rendered needs a tokenizer; name one with --recipe or --model")
    return renderer(spec, chosen)
