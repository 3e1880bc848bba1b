"""`safereason data overlap`: rows that two sets share, such as training rows that a benchmark tests on."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from safereason.cli import options as opt
from safereason.cli import output
from safereason.console import progress, say
from safereason.errors import BarNotMet, InputError

if TYPE_CHECKING:
    from safereason.data.example import Example
    from safereason.data.overlap import Hit
    from safereason.data.sources import Source, Split
    from safereason.recipe.schema import Hygiene

EXAMPLES = opt.examples(
    "safereason data overlap mine.jsonl --against harmbench --against xstest",
    "safereason data overlap runs/data/RUN --against toxicchat:test --fail-on-overlap",
    "safereason data overlap jailbreakbench advbench harmbench --list",
)
EXCERPT = 80
"""Characters of a text that `--list` prints."""
Pairs = dict[str, list[str]]
"""Sets that are looked at, each with those it is compared with."""

LookedAt = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE|SOURCE|RUN",
        help="Whose rows are looked at: a file of examples, a source, SOURCE:train or SOURCE:test, or a data run.",
    ),
]
Against = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        metavar="SET",
        help="What they are compared with, named likewise; may be repeated. Without it, every two of those named.",
    ),
]
Near = Annotated[
    float, typer.Option("--near", min=0, max=1, help="Jaccard similarity that makes texts the same; 0: do not look.")
]
Words = Annotated[
    int, typer.Option("--words", min=0, help="Words in a row, 5 or more, that make texts the same; 0: do not look.")
]
Listed = Annotated[bool, typer.Option("--list", help="Print each overlap as a line of JSON, in place of the table.")]
FailOnOverlap = Annotated[bool, typer.Option("--fail-on-overlap", help="Exit with 3 where there is any.")]


def overlap(
    looked_at: LookedAt,
    against: Against = None,
    near: Near = 0.8,
    words: Words = 13,
    listed: Listed = False,
    fail_on_overlap: FailOnOverlap = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Count the rows that other sets hold too: to the letter, nearly, or in a run of words.

    A row is counted once a set, under the strongest of the three.
    """
    from safereason.recipe.schema import Hygiene

    if 0 < near < 0.1:
        raise InputError(f"--near {near:g}: texts so far apart have nothing in common; from 0.1 on, or 0 to not look")
    if 0 < words < 5:
        raise InputError(f"--words {words}: at least 5 words in a row are compared; 0 does not look")
    pairs = _pairs(looked_at, against or [])
    _check(pairs)
    hygiene = Hygiene(near_duplicate=near or None, shared_words=words or None)
    counted, hits = _compare(pairs, hygiene, listed)
    if as_json:
        document = {"near_duplicate": hygiene.near_duplicate, "shared_words": hygiene.shared_words, "pairs": counted}
        output.print_json({**document, "overlaps": hits} if listed else document)
    elif listed:
        for hit in hits:
            print(json.dumps(hit, ensure_ascii=False))
    else:
        _print_table(counted, hygiene)
    found = sum(pair["any"] for pair in counted)
    if fail_on_overlap and found:
        raise BarNotMet(f"{found} {'overlap' if found == 1 else 'overlaps'} found; --list names them")


def _pairs(looked_at: list[str], against: list[str]) -> Pairs:
    named = [str(Path(name)) for name in (*looked_at, *against)]
    twice = [name for name, count in Counter(named).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]}: is named twice; a set is not compared with itself")
    if against:
        return dict.fromkeys(looked_at, against)
    if len(looked_at) == 1:
        raise InputError(f"{looked_at[0]}: what is it compared with? name it with --against, such as a benchmark")
    return {name: looked_at[place:] for place, name in enumerate(looked_at[:-1], start=1)}


def _check(pairs: Pairs) -> None:
    """Reads the first row of everything, so that whatever cannot be had is named before the work begins."""
    problems: list[str] = []
    for name in dict.fromkeys((*pairs, *chain(*pairs.values()))):
        try:
            first = [next(iter(source.stream(split)), None) for source, split in _parts(name)]
            if not any(first):
                raise InputError(f"{name}: holds no row, so that nothing can be found in it; check the file")
        except InputError as error:
            problems.append(str(error))
    lines = list(dict.fromkeys(problems))
    for line in lines[:-1]:
        say(output.visible(f"error: {line}"))
    if lines:
        raise InputError(lines[-1])


def _compare(pairs: Pairs, hygiene: "Hygiene", listed: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What each pair comes to, and the overlaps themselves where they are listed."""
    from safereason.data.overlap import compare, indexes

    texts: dict[tuple[str, str], str] = {}

    def to_index(name: str) -> Iterator["Example"]:
        for example in _rows(name, "reading"):
            if listed:
                texts[name, example.id] = _excerpt(example)
            yield example

    made = indexes({name: to_index(name) for name in dict.fromkeys(chain(*pairs.values()))}, hygiene)
    counted, hits = [], []
    for name, others in pairs.items():
        counts: dict[str, Counter[str]] = {other: Counter() for other in others}
        rows = 0
        for example, found in compare(_rows(name, "comparing"), {other: made[other] for other in others}):
            rows += 1
            for hit in found:
                counts[hit.test_set][hit.match.how] += 1
                if listed:
                    hits.append(_line(name, example, hit, texts[hit.test_set, hit.match.key]))
        counted += [
            {
                "looked_at": name,
                "against": other,
                "rows": rows,
                **{how: count[how] for how in ("exact", "near", "words")},
                "any": count.total(),
            }
            for other, count in counts.items()
        ]
    return counted, hits


def _rows(name: str, doing: str) -> Iterator["Example"]:
    """The rows of a set, one by one; one that two of its parts hold under one id is there once."""
    first: set[str] = set()
    with progress(f"{doing} {name}", None) as advance:
        for number, (source, split) in enumerate(_parts(name)):
            for example in source.stream(split):
                if number and example.id in first:
                    continue
                if not number:
                    first.add(example.id)
                advance("")
                yield example


def _parts(name: str) -> "list[tuple[Source, Split]]":
    """The sources and splits that a set consists of.

    Raises:
        InputError: It is none.
    """
    from safereason.data import sources

    if Path(name).is_dir():
        return [(sources.get(str(file)), "train") for file in _files(Path(name))]
    stem, _, wanted = name.rpartition(":")
    for split in get_args(sources.Split):
        if stem and wanted == split:
            return [(sources.get(stem), split)]
    source = sources.get(name)
    return [(source, split) for split in source.serves]


def _files(run: Path) -> list[Path]:
    """What a data run would have trained on."""
    from safereason.runs.directory import is_finished, read_manifest
    from safereason.stages.data import TRACES, TRAIN

    if (read_manifest(run) or {}).get("stage") != "data" or not is_finished(run):
        raise InputError(f"{run}: no finished run of `data build`; name one, a file of examples or a source")
    return [file for name in (TRACES, TRAIN) if (file := run / name).is_file()]


def _excerpt(example: "Example") -> str:
    from safereason.data.overlap import subject

    return output.visible(" ".join(subject(example).split())[:EXCERPT])


def _line(name: str, example: "Example", hit: "Hit", other: str) -> dict[str, Any]:
    match = hit.match
    return {
        "looked_at": output.visible(name),
        "id": output.visible(example.id),
        "against": output.visible(hit.test_set),
        "of": output.visible(match.key),
        "how": match.how,
        "similarity": match.similarity if match.similarity is None else round(match.similarity, 3),
        "shared": match.shared,
        "text": _excerpt(example),
        "of_text": other,
    }


def _print_table(counted: Iterable[dict[str, Any]], hygiene: "Hygiene") -> None:
    near, words = hygiene.near_duplicate, hygiene.shared_words
    columns = (
        "looked at",
        "against",
        "rows",
        "exact",
        f"near {near:g}" if near else "near",
        f"{words} words" if words else "words",
        "any",
    )
    output.print_table(
        columns,
        [
            (
                pair["looked_at"],
                pair["against"],
                pair["rows"],
                pair["exact"],
                pair["near"] if near else "–",
                pair["words"] if words else "–",
                pair["any"],
            )
            for pair in counted
        ],
    )
