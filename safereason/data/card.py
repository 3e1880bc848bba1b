"""Card of the data of a recipe: its contents, its sources, and the rows that were left out."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from statistics import median

from safereason.data import sources
from safereason.data.example import COLUMNS, Example
from safereason.data.sampling import fold
from safereason.recipe.schema import Recipe, TarsMix
from safereason.runs.records import Record

Card = Record
"""A card or a part of it, of plain JSON values."""
TEXTS = ("prompt", "reasoning", "answer", "response", "target")
"""Columns whose values may be long."""
SHOWN_CHARS = 400
"""Characters of an example's text that a card shows."""
_COUNTS = ("by_kind", "by_label", "by_source", "by_category")


def describe(
    recipe: Recipe,
    files: Mapping[str, Sequence[Example]],
    drops: Mapping[str, int],
    *,
    overlap: Card | None = None,
    tokens: Mapping[str, Card] | None = None,
    notes: Sequence[str] = (),
) -> Card:
    """The card of several files of examples.

    Args:
        recipe: The recipe that the files were made by.
        files: Rows by file name.
        drops: Number of rows that were read and left out, by reason.
        overlap: Rows that the recipe's test sets contain too.
        tokens: Lengths in tokens by file name, from `lengths.of_file`.
        notes: Remarks for the reader.

    Returns:
        Lengths are in characters, except for `tokens`. `content` is a hash of a file's rows that does not depend on
        the library that wrote the file.
    """
    harmful_ratio = None
    if isinstance(recipe.data, TarsMix):
        harmful_ratio = recipe.data.harmful_ratio
    described_files = {}
    for name, rows in files.items():
        described_files[name] = _describe_rows(rows, (tokens or {}).get(name))
    return {
        "recipe": recipe.name,
        "mix": recipe.data.mix,
        "seed": recipe.seed,
        "harmful_ratio": harmful_ratio,
        "model": recipe.model,
        "files": described_files,
        "prompts_in_both": _count_shared_prompts(list(files.values())),
        "drops": {reason: count for reason, count in sorted(drops.items()) if count},
        "overlap": overlap,
        "sources": [_describe_source(name) for name in source_names(recipe)],
        "notes": list(notes),
    }


def source_names(recipe: Recipe) -> list[str]:
    """The sources that a recipe's data section names, each once, without those it leaves out."""
    data = recipe.data
    names: list[str] = []
    if isinstance(data, TarsMix):
        shares = (*data.harmful, *data.harmless, *data.ambiguous, *data.traces)
    else:
        names += data.sources
        shares = (*data.safe_only, *data.unsafe_only, *data.traces)
    names += [share.source for share in shares]
    return [name for name in dict.fromkeys(names) if name not in data.without_sources]


def to_markdown(card: Card) -> str:
    """Markdown of a card, as `card.md` beside the data has it."""
    harmful_ratio = ""
    if card["harmful_ratio"] is not None:
        harmful_ratio = f", λ = {card['harmful_ratio']}"
    parts = [f"# Data of {card['recipe']}\n\nMix {card['mix']}, seed {card['seed']}{harmful_ratio}.\n"]
    for name, file in card["files"].items():
        parts.append(_file_section(name, file))
    if card["prompts_in_both"]:
        parts.append(f"{card['prompts_in_both']} prompts are in more than one file.\n")
    drops = card["drops"].items() or [("nothing", 0)]
    parts.append(_markdown_table("Left out of what was looked at", ("reason", "rows"), drops))
    if card["overlap"]:
        parts.append(_overlap_section(card["overlap"]))
    licences = []
    for source in card["sources"]:
        licences.append((f"[{source['name']}]({source['page']})", source["title"], source["licence"]))
    parts.append(_markdown_table("Sources", ("source", "what", "licence"), licences))
    if card["notes"]:
        parts.append("## Notes\n\n" + "".join(f"- {note}\n" for note in card["notes"]))
    # Examples come last: they are long, and some readers do not want to see harmful texts.
    for name, file in card["files"].items():
        if file["examples"]:
            parts.append(_examples_section(name, file["examples"]))
    return "\n".join(parts)


def _describe_rows(rows: Sequence[Example], tokens: Card | None) -> Card:
    characters = {}
    for name in ("prompt", "reasoning", "answer", "response"):
        texts = (getattr(row, name) for row in rows)
        lengths = [len(text) for text in texts if text is not None]
        if lengths:
            characters[name] = _length_summary(lengths)
    return {
        "rows": len(rows),
        "content": _content_hash(rows),
        "by_kind": _sorted_counts(row.kind for row in rows),
        "by_label": _sorted_counts(row.label for row in rows if row.label),
        "by_source": _sorted_counts(row.source for row in rows),
        "by_category": _sorted_counts(f"{row.source}: {row.category}" for row in rows if row.category),
        "characters": characters,
        "tokens": tokens,
        "examples": _first_of_each_kind(rows),
    }


def _content_hash(rows: Iterable[Example]) -> str:
    """SHA-256 of the rows in their order."""
    # Published hashes depend on this form: JSON with the columns in order, and a unit separator between two rows.
    content = sha256()
    for number, row in enumerate(rows):
        if number:
            content.update(b"\x1f")
        content.update(json.dumps(_row_values(row), ensure_ascii=False).encode())
    return content.hexdigest()


def _row_values(row: Example) -> dict[str, str | None]:
    return {name: getattr(row, name) for name in COLUMNS}


def _first_of_each_kind(rows: Iterable[Example]) -> list[Card]:
    """The first row of each kind and label, with its texts cut."""
    first: dict[tuple[str, str | None], Example] = {}
    for row in rows:
        first.setdefault((row.kind, row.label), row)
    return [_shortened_values(row) for row in first.values()]


def _shortened_values(row: Example) -> Card:
    shortened = {}
    for name, value in _row_values(row).items():
        if value is None:
            continue
        if name in TEXTS and len(value) > SHOWN_CHARS:
            value = f"{value[:SHOWN_CHARS]} …"
        shortened[name] = value
    return shortened


def _sorted_counts(values: Iterable[str]) -> dict[str, int]:
    # Sorted, so that a card does not depend on the order of the rows.
    return dict(sorted(Counter(values).items()))


def _length_summary(lengths: Sequence[int]) -> dict[str, float]:
    return {"min": min(lengths), "median": median(lengths), "max": max(lengths)}


def _count_shared_prompts(files: Sequence[Sequence[Example]]) -> int:
    """Number of prompts that are in more than one file."""
    files_by_prompt: Counter[str] = Counter()
    for rows in files:
        # A set, since a file may have several traces of one prompt.
        files_by_prompt.update({fold(row.prompt) for row in rows})
    return sum(count > 1 for count in files_by_prompt.values())


def _describe_source(name: str) -> dict[str, str]:
    source = sources.get(name)
    return {"name": source.name, "title": source.title, "page": source.page, "licence": source.licence}


def _file_section(name: str, file: Card) -> str:
    counts = []
    for key in _COUNTS:
        for value, count in file[key].items():
            counts.append((key.removeprefix("by_"), value, count))
    lengths = [(column, *summary.values()) for column, summary in file["characters"].items()]
    parts = [
        f"## {name}: {file['rows']} rows\n",
        f"SHA-256 of the rows: `{file['content']}`; of the file: `{file.get('sha256', '')}`\n",
        _markdown_table("", ("by", "value", "rows"), counts),
        _markdown_table("", ("characters of", "least", "median", "most"), lengths),
    ]
    if file["tokens"]:
        parts.append(_token_table(file["tokens"]))
    return "\n".join(parts)


def _token_table(tokens: Card) -> str:
    lines = []
    for part, summary in tokens.items():
        # Only some parts have a limit.
        if part != "measured":
            lines.append((part, *(summary.get(key, "") for key in ("min", "median", "p95", "max", "limit", "over"))))
    header = (f"tokens, of {tokens['measured']} rows", "least", "median", "95 %", "most", "limit", "over it")
    return _markdown_table("", header, lines)


def _overlap_section(overlap: Card) -> str:
    checks = overlap["checks"]
    near = checks["near_duplicate"]
    words = checks["shared_words"]
    header = ("test set", "rows", "exact", f"near (≥ {near})", f"{words} words")
    lines = []
    for name, test_set in overlap["sets"].items():
        if "rows" in test_set:
            # A dash is not a zero: that check is switched off.
            near_cell = test_set["near"] if near else "–"
            words_cell = test_set["words"] if words else "–"
            lines.append((name, test_set["rows"], test_set["exact"], near_cell, words_cell))
        else:
            lines.append((name, "not compared", "", "", ""))
    title = f"Rows that a test set holds too: {overlap['rows']} ({checks['on_overlap']})"
    parts = [_markdown_table(title, header, lines or [("nothing is tested on", "", "", "", "")])]
    hits = []
    for hit in overlap["hits"]:
        hits.append((hit["row"], f"{hit['of']} of {hit['set']}", hit["how"], _similarity_cell(hit)))
    if hits:
        parts.append(_markdown_table("", ("row", "is", "how", "similarity or words"), hits))
    return "\n".join(parts)


def _similarity_cell(hit: Card) -> str:
    if hit["similarity"] is None:
        return str(hit["shared"])
    return f"{hit['similarity']:.2f}"


def _examples_section(name: str, examples: Sequence[Card]) -> str:
    parts = [f"## Examples of {name}\n"]
    for example in examples:
        body = "\n".join(f"{key}: {value}" for key, value in example.items())
        # The fence is longer than any in the texts, so that nothing in them is read as markup.
        fence = "`" * (max(map(len, re.findall("`+", body)), default=2) + 1)
        parts.append(f"{fence}text\n{body}\n{fence}\n")
    return "\n".join(parts)


def _markdown_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table, below a heading where there is a title."""
    body = ""
    for line in (header, ["---"] * len(header), *rows):
        body += "| " + " | ".join(_markdown_cell(cell) for cell in line) + " |\n"
    if title:
        return f"## {title}\n\n{body}"
    return body


def _markdown_cell(value: object) -> str:
    # Ids, categories and shared words come from foreign files, and may hold line breaks or the table's own separator.
    return " ".join(str(value).replace("|", "\\|").split())
