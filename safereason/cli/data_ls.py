"""`safereason data ls`: the data sources, which recipes need them, and which of a recipe's are available here."""

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from safereason.cli import options as opt
from safereason.cli import output
from safereason.errors import InputError
from safereason.text.visible import visible

if TYPE_CHECKING:
    from safereason.data.sources import Source, Split
    from safereason.recipe.schema import Recipe
    from safereason.stages.base import Options

EXAMPLES = opt.examples("safereason data ls", "safereason data ls --recipe tars-1.5b", "safereason data ls --json")
# Columns of a table where the terminal does not tell its width, as in a pipe.
WIDTH = 120
# The most columns that a table leaves between two cells: rich's padding is wider than that of aligned text.
BETWEEN = 3
# The last column is the one that is cut. Below this width it would say nothing.
NARROWEST_TITLE = 20
HEADINGS = ("name", "size", "licence", "serves", "has", "recipes", "holds")


class SourceEntry(TypedDict, total=False):
    """A source as `--json` prints it."""

    name: str
    title: str
    size: int | None
    licence: str
    serves: list[str]
    traces: bool
    gated: bool
    page: str


class ListedSource(SourceEntry, total=False):
    """A source, with the shipped recipes that read it."""

    recipes: list[str]


# The functional form, since `for` is a keyword. The names of its keys are those of the JSON.
_Availability = TypedDict("_Availability", {"for": list[str], "there": bool, "why_not": str | None}, total=False)


class RecipeSource(SourceEntry, _Availability, total=False):
    """A source of a recipe, with its uses and whether it can be read here."""


class Use(NamedTuple):
    """One use that a recipe makes of a source."""

    purpose: str
    """Purpose in the recipe: `training`, `traces` or `tests`."""
    split: "Split"
    """The split that is read for it."""


def list_sources(
    recipe: opt.MaybeRecipe = None,
    root: opt.Root = opt.RUNS,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """List the data sources with size, licence and splits; or a recipe's, and whether each can be read here."""
    if recipe:
        of_recipe = _sources_of_recipe(opt.load_recipe(recipe, None), opt.stage_options(root))
        if as_json:
            output.print_json(of_recipe)
        else:
            _print_sources_of_recipe(of_recipe)
        return
    sources = _all_sources()
    if as_json:
        output.print_json(sources)
    else:
        output.print_table(HEADINGS, _fit_to_terminal(HEADINGS, [_table_row(source) for source in sources]))


def _table_row(source: ListedSource) -> tuple[str, ...]:
    # Titles begin with the source's name and a colon, and the name has a column of its own.
    title = source["title"].partition(": ")[2] or source["title"]
    return (
        source["name"],
        size(source["size"]),
        _short_licence(source),
        " ".join(source["serves"]),
        _flags(source),
        count_by_family(source["recipes"]),
        title,
    )


def _print_sources_of_recipe(sources: Sequence[RecipeSource]) -> None:
    rows: list[tuple[str, ...]] = []
    for source in sources:
        here = "there" if source["there"] else "no"
        purposes = ", ".join(source["for"])
        rows.append(
            (source["name"], purposes, size(source["size"]), _short_licence(source), _flags(source), here),
        )
    output.print_table(("name", "for", "size", "licence", "has", "here"), rows)
    # The reasons are whole sentences with commands and addresses, too long for a column.
    for source in sources:
        if not source["there"]:
            print(visible(f"\n{source['name']}: {source['why_not']}"))


def size(rows: int | None) -> str:
    """A number of rows in at most four characters; `?` where the source does not tell."""
    if rows is None:
        return "?"
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        # From 0.9995 of a unit on, three digits of the smaller unit would round to 1000.
        if rows >= 0.9995 * unit:
            value = rows / unit
            # Two digits fit as 9.9k and as 10k; from 9.95 on, one decimal would round to 10.0.
            if value < 9.95:
                return f"{value:.1f}{name}"
            return f"{value:.0f}{name}"
    return str(rows)


def count_by_family(recipes: Sequence[str]) -> str:
    """The number of recipes of each paper, such as `3 tars, 1 rsafe`; TARS's baselines and ablations are TARS's."""
    counts: Counter[str] = Counter()
    for name in recipes:
        family = name.partition("-")[0]
        if family in ("baseline", "ablation"):
            family = "tars"
        counts[family] += 1
    return ", ".join(f"{count} {family}" for family, count in counts.items())


def _all_sources() -> list[ListedSource]:
    from safereason.data.sources import SOURCES
    from safereason.recipe.load import load
    from safereason.recipe.named import shipped

    recipes_by_source: dict[str, list[str]] = {}
    for path in shipped():
        for name in uses_by_source(load(path.stem)):
            recipes_by_source.setdefault(name, []).append(path.stem)
    listed: list[ListedSource] = []
    for name, source in SOURCES.every():
        if isinstance(source, InputError):
            # Another package's source that cannot be imported. Its error is shown in the column of titles.
            listed.append({**_unknown_source(name), "title": str(source), "recipes": []})
        else:
            listed.append({**_source_entry(source), "recipes": recipes_by_source.get(source.name, [])})
    return listed


def _unknown_source(name: str) -> SourceEntry:
    """The entry of a source of which only the name is known."""
    return {"name": name, "size": None, "licence": "", "serves": [], "traces": False, "gated": False}


def _source_entry(source: "Source") -> SourceEntry:
    return {
        "name": source.name,
        "title": source.title,
        "size": source.rows,
        "licence": source.licence,
        "serves": list(source.serves),
        "traces": source.reasoned is not None,
        "gated": source.gated,
        "page": source.page,
    }


def _sources_of_recipe(recipe: "Recipe", options: "Options") -> list[RecipeSource]:
    from safereason.data import sources

    listed: list[RecipeSource] = []
    for name, uses in uses_by_source(recipe).items():
        try:
            entry = _source_entry(sources.get(name))
            problem = _problem_of(recipe, options, name, uses)
        except InputError as error:
            # The recipe names a source that does not exist. The others are listed all the same.
            entry = _unknown_source(name)
            problem = str(error)
        listed.append(
            {
                **entry,
                "for": list(dict.fromkeys(use.purpose for use in uses)),
                "there": problem is None,
                "why_not": problem,
            }
        )
    return listed


def uses_by_source(recipe: "Recipe") -> dict[str, list[Use]]:
    """The uses of each source that a recipe names, in the order of its sections."""
    from safereason.data.card import source_names

    # Traces come from shares with rules of their own, so their sources are left out of the pools here.
    pools = recipe.model_copy(update={"data": recipe.data.model_copy(update={"traces": ()})})
    named = [(name, Use("training", "train")) for name in source_names(pools)]
    for share in recipe.data.traces:
        if share.source not in recipe.data.without_sources:
            named.append((share.source, Use("traces", "train")))
    if recipe.eval:
        for name in (recipe.eval.behaviors, recipe.eval.benign):
            if name:
                named.append((name, Use("tests", "test")))
    if recipe.guard and recipe.guard.eval:
        for labelled in recipe.guard.eval.sets:
            named.append((labelled.source, Use("tests", labelled.split)))
    uses: dict[str, list[Use]] = {}
    # Several shares and sets may read the same split of one source.
    for name, use in dict.fromkeys(named):
        uses.setdefault(name, []).append(use)
    return uses


def _problem_of(recipe: "Recipe", options: "Options", name: str, uses: Sequence[Use]) -> str | None:
    """The reason why a recipe's source cannot be read, with the command that makes it; None where it can."""
    from safereason.data import sources
    from safereason.stages.preparation.training_sources import how_to_make, located

    # Sources that a stage writes, such as a teacher's traces, lie in a run of the recipe's.
    source = sources.get(located(recipe, options, name))
    problem = _reading_problem(source, dict.fromkeys(use.split for use in uses))
    if problem is None:
        return None
    return f"{problem}{how_to_make(recipe, options, name)}"


def _reading_problem(source: "Source", splits: "Iterable[Split]") -> str | None:
    """The reason why a source cannot be read, with where to get it; None where it can. Nothing is downloaded."""
    from safereason.data.fetch import nothing_downloaded

    try:
        with nothing_downloaded():
            for split in splits:
                # One row is enough: a file that is there but damaged is the business of `data verify`.
                next(iter(source.stream(split)), None)
    except InputError as error:
        if source.gated:
            return f"{error}; accept the terms at {source.page} and set HF_TOKEN"
        return str(error)
    return None


def _short_licence(source: SourceEntry) -> str:
    # SPDX's prefix for licences that its list does not have.
    return source["licence"].removeprefix("LicenseRef-")


def _flags(source: SourceEntry) -> str:
    """`traces` for a source with reasoning, `gated` for one whose terms have to be accepted."""
    flags: list[str] = []
    if source["traces"]:
        flags.append("traces")
    if source["gated"]:
        flags.append("gated")
    return " ".join(flags)


def _fit_to_terminal(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The rows with their last cell cut, so that no line is longer than the terminal is wide."""
    taken = 0
    for cells in list(zip(columns, *rows, strict=True))[:-1]:
        taken += max(map(len, cells)) + BETWEEN
    # Two columns stay free: rich pads the last cell, too.
    room = max(NARROWEST_TITLE, shutil.get_terminal_size((WIDTH, 24)).columns - taken - 2)
    fitted: list[Sequence[str]] = []
    for row in rows:
        *others, title = row
        if len(title) > room:
            title = f"{title[: room - 1]}…"
        fitted.append([*others, title])
    return fitted
