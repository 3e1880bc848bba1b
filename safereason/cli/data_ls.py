"""`safereason data ls`: the data sources, which recipes need them, and which of a recipe's can be had here."""

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from safereason.cli import options as opt
from safereason.cli import output
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.data.sources import Source, Split
    from safereason.recipe.schema import Recipe
    from safereason.stages.base import Options

EXAMPLES = opt.examples("safereason data ls", "safereason data ls --recipe tars-1.5b", "safereason data ls --json")
WIDTH = 120
"""Columns of a table where the terminal's are not known."""
BETWEEN = 3
"""Columns that a table leaves between two cells, at most."""


def ls(
    recipe: opt.MaybeRecipe = None,
    root: opt.Root = opt.RUNS,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """List the data sources with size, licence and splits; or a recipe's, and whether each can be read here."""
    found = _of_recipe(opt.load_recipe(recipe, None), opt.stage_options(root)) if recipe else _all()
    if as_json:
        output.print_json(found)
    elif recipe:
        _print_of_recipe(found)
    else:
        columns = ("name", "size", "licence", "serves", "has", "recipes", "holds")
        output.print_table(
            columns,
            _fitted(
                columns,
                [
                    (
                        s["name"],
                        size(s["size"]),
                        _licence(s),
                        " ".join(s["serves"]),
                        _has(s),
                        by_family(s["recipes"]),
                        s["title"].partition(": ")[2] or s["title"],
                    )
                    for s in found
                ],
            ),
        )


def _print_of_recipe(found: list[dict[str, Any]]) -> None:
    output.print_table(
        ("name", "for", "size", "licence", "has", "here"),
        [
            (s["name"], ", ".join(s["for"]), size(s["size"]), _licence(s), _has(s), "there" if s["there"] else "no")
            for s in found
        ],
    )
    for source in found:
        if not source["there"]:
            print(output.visible(f"\n{source['name']}: {source['why_not']}"))


def size(rows: int | None) -> str:
    """A number of rows in at most four characters; `?` where nobody says."""
    if rows is None:
        return "?"
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        if rows >= 0.9995 * unit:
            value = rows / unit
            return f"{value:.1f}{name}" if value < 9.95 else f"{value:.0f}{name}"
    return str(rows)


def by_family(recipes: Sequence[str]) -> str:
    """How many recipes there are of each paper's; its baselines and ablations are TARS's."""
    words = (name.partition("-")[0] for name in recipes)
    counts = Counter("tars" if word in ("baseline", "ablation") else word for word in words)
    return ", ".join(f"{count} {family}" for family, count in counts.items())


def _all() -> list[dict[str, Any]]:
    from safereason.data.sources import SOURCES
    from safereason.recipe.load import load, shipped

    needing: dict[str, list[str]] = {}
    for path in shipped():
        for name in uses(load(path.stem)):
            needing.setdefault(name, []).append(path.stem)
    return [{**_entry(source), "recipes": needing.get(source.name, [])} for source in SOURCES.values()]


def _entry(source: "Source") -> dict[str, Any]:
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


def _of_recipe(recipe: "Recipe", options: "Options") -> list[dict[str, Any]]:
    from safereason.data import sources
    from safereason.stages.training_sources import located, makes

    found = []
    for name, named in uses(recipe).items():
        try:
            entry, read = _entry(sources.get(name)), sources.get(located(recipe, options, name))
            why_not = _why_not(read, dict.fromkeys(split for _, split in named))
            why_not = why_not and f"{why_not}{makes(recipe, options, name)}"
        except InputError as error:  # no such source
            entry, why_not = {"name": name, "size": None, "licence": "", "traces": False, "gated": False}, str(error)
        found.append(
            {
                **entry,
                "for": list(dict.fromkeys(what for what, _ in named)),
                "there": why_not is None,
                "why_not": why_not,
            }
        )
    return found


def uses(recipe: "Recipe") -> "dict[str, list[tuple[str, Split]]]":
    """The sources a recipe names, each with what for (training, traces, tests) and the splits that are read for it."""
    from safereason.data.card import source_names

    pools = recipe.model_copy(update={"data": recipe.data.model_copy(update={"traces": ()})})
    named: list[tuple[str, str, Split]] = [(name, "training", "train") for name in source_names(pools)]
    left_out = recipe.data.without_sources
    named += [(share.source, "traces", "train") for share in recipe.data.traces if share.source not in left_out]
    if recipe.eval:
        named += [(name, "tests", "test") for name in (recipe.eval.behaviors, recipe.eval.benign) if name]
    if recipe.guard and recipe.guard.eval:
        named += [(chosen.source, "tests", chosen.split) for chosen in recipe.guard.eval.sets]
    found: dict[str, list[tuple[str, Split]]] = {}
    for name, what, split in dict.fromkeys(named):
        found.setdefault(name, []).append((what, split))
    return found


def _why_not(source: "Source", splits: "Iterable[Split]") -> str | None:
    """Why a source cannot be read here as it stands, with where to get it; None where it can. Nothing is downloaded."""
    from safereason.data.fetch import nothing_downloaded

    try:
        with nothing_downloaded():
            for split in splits:
                next(iter(source.stream(split)), None)
    except InputError as error:
        terms = f"; accept the terms at {source.page} and set HF_TOKEN" if source.gated else ""
        return f"{error}{terms}"
    return None


def _licence(entry: dict[str, Any]) -> str:
    return str(entry["licence"]).removeprefix("LicenseRef-")


def _has(entry: dict[str, Any]) -> str:
    return " ".join(what for what in ("traces", "gated") if entry[what])


def _fitted(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The rows with their last cell cut, so that a line is no longer than the terminal is wide."""
    others = list(zip(columns, *rows, strict=True))[:-1]
    taken = sum(max(map(len, cells)) + BETWEEN for cells in others)
    left = max(20, shutil.get_terminal_size((WIDTH, 24)).columns - taken - 2)
    return [(*row[:-1], row[-1] if len(row[-1]) <= left else f"{row[-1][: left - 1]}…") for row in rows]
