"""The card of a data set: what is in it, where it comes from, what was left out."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from statistics import median
from typing import Any

from safereason.data import sources
from safereason.data.draw import fold
from safereason.data.example import COLUMNS, Example
from safereason.recipe.schema import Recipe, TarsMix

Card = dict[str, Any]
TEXTS = ("prompt", "reasoning", "answer", "response", "target")
CUT = 400
"""Characters that an example's text is cut to."""


def describe(
    recipe: Recipe,
    files: Mapping[str, Sequence[Example]],
    drops: Mapping[str, int],
    *,
    overlap: Card | None = None,
    tokens: Mapping[str, Card] | None = None,
    notes: Sequence[str] = (),
) -> Card:
    """The card of some files of examples, by file name, as plain JSON values.

    Args:
        recipe: What the files were made by.
        files: Rows by file name.
        drops: Rows that were looked at and left out, by reason.
        overlap: What the recipe's test sets hold too.
        tokens: Lengths in tokens by file name, as `lengths.of_file` gives them.
        notes: What a reader should know.

    Returns:
        Lengths are in characters but for `tokens`. `content` is a hash of a file's rows that does not depend on the
        library that wrote it.
    """
    return {
        "recipe": recipe.name,
        "mix": recipe.data.mix,
        "seed": recipe.seed,
        "harmful_ratio": recipe.data.harmful_ratio if isinstance(recipe.data, TarsMix) else None,
        "model": recipe.model,
        "files": {name: _describe_rows(rows, (tokens or {}).get(name)) for name, rows in files.items()},
        "prompts_in_both": _in_both(list(files.values())),
        "drops": {reason: count for reason, count in sorted(drops.items()) if count},
        "overlap": overlap,
        "sources": [_describe_source(name) for name in source_names(recipe)],
        "notes": list(notes),
    }


def source_names(recipe: Recipe) -> list[str]:
    """The sources a recipe's data section names, each once, but for those it leaves out."""
    data = recipe.data
    if isinstance(data, TarsMix):
        names = [share.source for share in (*data.harmful, *data.harmless, *data.ambiguous, *data.traces)]
    else:
        names = [*data.sources, *(share.source for share in (*data.safe_only, *data.unsafe_only, *data.traces))]
    return [name for name in dict.fromkeys(names) if name not in data.without_sources]


def to_markdown(card: Card) -> str:
    """The card for a person to read."""
    share = "" if card["harmful_ratio"] is None else f", λ = {card['harmful_ratio']}"
    parts = [f"# Data of {card['recipe']}\n\nMix {card['mix']}, seed {card['seed']}{share}.\n"]
    parts += [_file_section(name, entry) for name, entry in card["files"].items()]
    if card["prompts_in_both"]:
        parts.append(f"{card['prompts_in_both']} prompts are in more than one file.\n")
    parts.append(
        _table("Left out of what was looked at", ("reason", "rows"), card["drops"].items() or [("nothing", 0)])
    )
    if card["overlap"]:
        parts.append(_overlap_section(card["overlap"]))
    licences = [(f"[{s['name']}]({s['page']})", s["title"], s["licence"]) for s in card["sources"]]
    parts.append(_table("Sources", ("source", "what", "licence"), licences))
    if card["notes"]:
        parts.append("## Notes\n\n" + "".join(f"- {note}\n" for note in card["notes"]))
    parts += [_examples_section(name, entry["examples"]) for name, entry in card["files"].items() if entry["examples"]]
    return "\n".join(parts)


def _describe_rows(rows: Sequence[Example], tokens: Card | None) -> Card:
    lengths = {
        name: _spread([len(text) for row in rows if (text := getattr(row, name)) is not None])
        for name in ("prompt", "reasoning", "answer", "response")
    }
    return {
        "rows": len(rows),
        "content": _content(rows),
        "by_kind": _count(row.kind for row in rows),
        "by_label": _count(row.label for row in rows if row.label),
        "by_source": _count(row.source for row in rows),
        "by_category": _count(f"{row.source}: {row.category}" for row in rows if row.category),
        "characters": {name: spread for name, spread in lengths.items() if spread},
        "tokens": tokens,
        "examples": _examples(rows),
    }


def _content(rows: Iterable[Example]) -> str:
    """A hash of the rows, in order."""
    found = sha256()
    for number, row in enumerate(rows):
        found.update(b"\x1f" * bool(number) + json.dumps(_columns(row), ensure_ascii=False).encode())
    return found.hexdigest()


def _columns(row: Example) -> dict[str, str | None]:
    return {name: getattr(row, name) for name in COLUMNS}


def _examples(rows: Iterable[Example]) -> list[Card]:
    """The first row of each kind and label, its texts cut."""
    first: dict[tuple[str, str | None], Example] = {}
    for row in rows:
        first.setdefault((row.kind, row.label), row)
    return [
        {
            key: value if key not in TEXTS or len(value) <= CUT else f"{value[:CUT]} …"
            for key, value in _columns(row).items()
            if value is not None
        }
        for row in first.values()
    ]


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
    counts = [
        (by.removeprefix("by_"), value, count)
        for by in ("by_kind", "by_label", "by_source", "by_category")
        for value, count in entry[by].items()
    ]
    lengths = [(what, *spread.values()) for what, spread in entry["characters"].items()]
    return "\n".join(
        (
            f"## {name}: {entry['rows']} rows\n",
            f"SHA-256 of the rows: `{entry['content']}`; of the file: `{entry.get('sha256', '')}`\n",
            _table("", ("by", "value", "rows"), counts),
            _table("", ("characters of", "least", "median", "most"), lengths),
            *([_token_table(entry["tokens"])] if entry["tokens"] else []),
        )
    )


def _token_table(tokens: Card) -> str:
    parts = [(what, spread) for what, spread in tokens.items() if what != "measured"]
    lines = [
        (what, *(spread.get(key, "") for key in ("min", "median", "p95", "max", "limit", "over")))
        for what, spread in parts
    ]
    header = (f"tokens, of {tokens['measured']} rows", "least", "median", "95 %", "most", "limit", "over it")
    return _table("", header, lines)


def _overlap_section(overlap: Card) -> str:
    checks = overlap["checks"]
    near, words = checks["near_duplicate"], checks["shared_words"]
    header = ("test set", "rows", "exact", f"near (≥ {near})", f"{words} words")
    lines = [
        (name, found["rows"], found["exact"], found["near"] if near else "–", found["words"] if words else "–")
        if "rows" in found
        else (name, "not compared", "", "", "")
        for name, found in overlap["sets"].items()
    ]
    hits = [(hit["row"], f"{hit['of']} of {hit['set']}", hit["how"], _similarity(hit)) for hit in overlap["hits"]]
    title = f"Rows that a test set holds too: {overlap['rows']} ({checks['on_overlap']})"
    parts = [_table(title, header, lines or [("nothing is tested on", "", "", "", "")])]
    if hits:
        parts.append(_table("", ("row", "is", "how", "similarity or words"), hits))
    return "\n".join(parts)


def _similarity(hit: Card) -> str:
    return f"{hit['similarity']:.2f}" if hit["similarity"] is not None else str(hit["shared"])


def _examples_section(name: str, examples: Sequence[Card]) -> str:
    parts = [f"## Examples of {name}\n"]
    for example in examples:
        body = "\n".join(f"{key}: {value}" for key, value in example.items())
        # A fence that is longer than any in the texts, so that nothing in them is markup.
        fence = "`" * (max(map(len, re.findall("`+", body)), default=2) + 1)
        parts.append(f"{fence}text\n{body}\n{fence}\n")
    return "\n".join(parts)


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    body = "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)
    return f"## {title}\n\n{body}" if title else body


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
