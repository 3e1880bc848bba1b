"""The card of a data set: what is in it, where it comes from, what was left out."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from safereason.data import sources
from safereason.data.draw import digest, fold
from safereason.data.example import Example
from safereason.recipe.schema import Recipe, TarsMix

Card = dict[str, Any]


def describe(
    recipe: Recipe, files: Mapping[str, Sequence[Example]], drops: Mapping[str, int], notes: Sequence[str] = ()
) -> Card:
    """The card of some files of examples, by file name, as plain JSON values.

    Lengths are in characters. `content` is a hash of a file's rows that does not depend on the library that wrote it.
    """
    return {
        "recipe": recipe.name,
        "mix": recipe.data.mix,
        "seed": recipe.seed,
        "harmful_ratio": recipe.data.harmful_ratio if isinstance(recipe.data, TarsMix) else None,
        "files": {name: _describe_rows(rows) for name, rows in files.items()},
        "prompts_in_both": _in_both(list(files.values())),
        "drops": {reason: count for reason, count in sorted(drops.items()) if count},
        "sources": [_describe_source(name) for name in source_names(recipe)],
        "notes": list(notes),
    }


def source_names(recipe: Recipe) -> list[str]:
    """The sources a recipe's data section names, each once."""
    data = recipe.data
    if isinstance(data, TarsMix):
        names = [share.source for share in (*data.harmful, *data.harmless, *data.ambiguous, *data.traces)]
    else:
        names = [*data.sources, *(share.source for share in (*data.safe_only, *data.unsafe_only, *data.traces))]
    return list(dict.fromkeys(names))


def to_markdown(card: Card) -> str:
    """The card for a person to read."""
    share = "" if card["harmful_ratio"] is None else f", λ = {card['harmful_ratio']}"
    parts = [f"# Data of {card['recipe']}\n\nMix {card['mix']}, seed {card['seed']}{share}.\n"]
    parts += [_file_section(name, entry) for name, entry in card["files"].items()]
    if card["prompts_in_both"]:
        parts.append(f"{card['prompts_in_both']} prompts are in more than one file.\n")
    parts.append(_table("Left out", ("reason", "rows"), card["drops"].items() or [("nothing", 0)]))
    licences = [(f"[{s['name']}]({s['page']})", s["title"], s["licence"]) for s in card["sources"]]
    parts.append(_table("Sources", ("source", "what", "licence"), licences))
    if card["notes"]:
        parts.append("## Notes\n\n" + "".join(f"- {note}\n" for note in card["notes"]))
    return "\n".join(parts)


def _describe_rows(rows: Sequence[Example]) -> Card:
    lengths = {
        name: _spread([len(text) for row in rows if (text := getattr(row, name)) is not None])
        for name in ("prompt", "reasoning", "answer", "response")
    }
    return {
        "rows": len(rows),
        "content": digest(*(json.dumps(asdict(row), ensure_ascii=False) for row in rows)),
        "by_kind": _count(row.kind for row in rows),
        "by_label": _count(row.label for row in rows if row.label),
        "by_source": _count(row.source for row in rows),
        "by_category": _count(f"{row.source}: {row.category}" for row in rows if row.category),
        "characters": {name: spread for name, spread in lengths.items() if spread},
    }


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _spread(lengths: Sequence[int]) -> dict[str, float] | None:
    return {"min": min(lengths), "median": median(lengths), "max": max(lengths)} if lengths else None


def _in_both(files: Sequence[Sequence[Example]]) -> int:
    found = Counter(prompt for rows in files for prompt in {fold(row.prompt) for row in rows})
    return sum(count > 1 for count in found.values())


def _describe_source(name: str) -> dict[str, str]:
    source = sources.get(name)
    return {"name": source.name, "title": source.title, "page": source.page, "licence": source.licence}


def _file_section(name: str, entry: Card) -> str:
    counts = [(by.removeprefix("by_"), value, count) for by in ("by_kind", "by_label", "by_source", "by_category")
              for value, count in entry[by].items()]  # fmt: skip
    lengths = [(what, *spread.values()) for what, spread in entry["characters"].items()]
    return "\n".join((
        f"## {name}: {entry['rows']} rows\n",
        f"SHA-256 of the rows: `{entry['content']}`; of the file: `{entry.get('sha256', '')}`\n",
        _table("", ("by", "value", "rows"), counts),
        _table("", ("characters of", "least", "median", "most"), lengths),
    ))  # fmt: skip


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    body = "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    return f"## {title}\n\n{body}" if title else body
