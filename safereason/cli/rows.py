"""Rows of examples, rollouts and completions: read, chosen, rendered, printed and checked."""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safereason.cli import output
from safereason.data.example import from_row, read_parquet
from safereason.errors import InputError
from safereason.runs.directory import read_manifest
from safereason.runs.records import read_records

if TYPE_CHECKING:
    from safereason.recipe.schema import Guard

Row = dict[str, Any]
Rendered = dict[str, Any]
Render = Callable[[Row], Rendered]

RUN_FILES = {"data": "train.parquet", "rl": "rollouts.jsonl", "eval": "completions.jsonl"}
"""What `data show` prints of a run, by its stage."""


def file_of(target: Path) -> Path:
    """The file itself, or the file of a run directory that is looked at.

    Raises:
        InputError: A folder is no run, or its stage writes no rows.
    """
    if not target.is_dir():
        return target
    manifest = read_manifest(target)
    if manifest is None:
        raise InputError(f"{target}: no run directory; name a run or one of its .parquet or .jsonl files")
    name = RUN_FILES.get(manifest["stage"].partition("/")[0])
    if name is None or not (target / name).exists():
        found = ", ".join(sorted(p.name for p in target.iterdir() if p.suffix in (".jsonl", ".parquet"))) or "none"
        raise InputError(f"{target}: which rows of this {manifest['stage']} run? name a file of it: {found}")
    return target / name


def select(path: Path, kind: str | None, skip: int, limit: int | None) -> list[tuple[int, Row]]:
    """The rows to show, each with its number from 1; `skip` and `limit` count rows of the kind asked for."""
    numbered = (
        (number, row) for number, row in enumerate(_read(path), start=1) if kind is None or row.get("kind") == kind
    )
    return list(islice(numbered, skip, None if limit is None else skip + limit))


def _read(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        return ({k: v for k, v in row.items() if v is not None} for row in read_parquet(path))
    if path.suffix == ".jsonl":
        return read_records(path)
    raise InputError(f"{path}: rows are read from .jsonl or .parquet files")


def print_row(number: int, row: Row, rendered: Rendered | None) -> None:
    """One row: its short values on the first line, its texts below."""
    body = {key: value for key, value in row.items() if _is_long(key, value)}
    head = [f"{key}={output.short(value)}" for key, value in row.items() if key not in body and value is not None]
    print(output.visible(f"── {number} ── {'  '.join(head)}"))
    if rendered is not None:
        _print_rendered(rendered)
    else:
        for key, value in body.items():
            _print_text(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    print()


TEXTS = ("prompt", "reasoning", "answer", "response", "text", "completion")
LONGEST_IN_HEAD = 60
"""Characters of a text that still stands on a row's first line."""


def _is_long(key: str, value: Any) -> bool:
    if isinstance(value, str):
        return key in TEXTS or len(value) > LONGEST_IN_HEAD or "\n" in value
    return isinstance(value, (list, dict))


def _print_text(title: str, text: str) -> None:
    print(output.visible(f"{title}:"))
    print("\n".join(f"  {line}" for line in output.visible(text).split("\n")))


def renderer(spec: str, guard: "Guard | None") -> Render:
    """A function from a row to what a model of this tokenizer reads, and which part of it is trained.

    With a guard's section the row is what the guard is asked about.
    """
    from safereason.engines.open import load_tokenizer
    from safereason.guard import guide
    from safereason.guard.prompt import Question
    from safereason.text import chat

    with output.results_only():
        tokenizer = load_tokenizer(spec)
    asked = guide.of_section(guard) if guard else None

    def render(row: Row) -> Rendered:
        if not isinstance(row.get("prompt"), str):
            raise InputError("--rendered: the rows have no text `prompt`; name a file of examples")
        question = Question(row["prompt"], row.get("response"))
        conversation = asked.conversation(question) if asked else chat.user(row["prompt"])
        reasoning = row.get("reasoning") or None
        if row.get("answer") and (reasoning or (asked and not asked.reasoning)):
            given, trained = chat.trace_ids(tokenizer, conversation, reasoning, row["answer"])
        else:
            given, trained = chat.prompt_ids(tokenizer, conversation), []
        return {
            "given": tokenizer.decode(given), "given_tokens": len(given),
            "trained": tokenizer.decode(trained), "trained_tokens": len(trained),
        }  # fmt: skip

    return render


def _print_rendered(rendered: Rendered) -> None:
    _print_text(f"given ({rendered['given_tokens']} tokens, not trained)", rendered["given"])
    if rendered["trained_tokens"]:
        _print_text(f"trained ({rendered['trained_tokens']} tokens)", rendered["trained"])
    else:
        print("trained: nothing; the model writes from here")


def verify(path: Path) -> tuple[int, list[tuple[int, str]]]:
    """Counts the rows of a file of examples and lists (line, problem) of the bad ones.

    Raises:
        InputError: The file cannot be read at all.
    """
    first: dict[str, int] = {}
    checked = [(number, _problem(row, number, first)) for number, row in _raw(path)]
    return len(checked), [(number, problem) for number, problem in checked if problem]


def _raw(path: Path) -> Iterator[tuple[int, bytes | Row]]:
    """Rows with their numbers, those of a JSONL file not yet parsed."""
    if path.suffix == ".parquet":
        yield from enumerate(read_parquet(path), start=1)
    elif path.suffix == ".jsonl":
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    else:
        raise InputError(f"{path}: examples are read from .jsonl or .parquet files")


def _problem(raw: bytes | Row, number: int, first: dict[str, int]) -> str | None:
    """What is wrong with one row, or None; `first` maps the ids seen so far to their lines."""
    try:
        row = json.loads(raw) if isinstance(raw, bytes) else raw
    except ValueError as error:
        return f"not JSON ({error})"
    if not isinstance(row, dict):
        return f"a JSON object is expected, not {type(row).__name__}"
    try:
        example = from_row(row, "row")
    except InputError as error:
        return str(error).removeprefix("row: ")
    earlier = first.setdefault(example.id, number)
    return None if earlier == number else f"`id` {example.id!r} is that of line {earlier} too"
