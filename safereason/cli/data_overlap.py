"""`safereason data overlap`: the rows that two sets share, such as training rows of a benchmark's test set."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, get_args

import typer

from safereason.cli import options as opt
from safereason.cli import output
from safereason.console import progress, say
from safereason.errors import BarNotMet, InputError
from safereason.text.visible import visible

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
# Characters of a text that `--list` prints: enough to recognise it, and no long harmful text in a log.
EXCERPT = 80
# The set of rows, by name, and the names of the sets it is compared with.
Pairs = dict[str, list[str]]


class PairCounts(TypedDict):
    """The counts of one set's rows that another set holds, by the strongest match."""

    looked_at: str
    against: str
    rows: int
    exact: int
    near: int
    words: int
    any: int


class OverlapLine(TypedDict):
    """One overlap, as `--list` prints it."""

    looked_at: str
    id: str
    against: str
    of: str
    how: str
    similarity: float | None
    shared: str | None
    text: str
    of_text: str


LookedAt = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE|SOURCE|RUN",
        help="Rows to look at: a file of examples, a source, SOURCE:train or SOURCE:test, or a data run.",
    ),
]
Against = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        metavar="FILE|SOURCE|RUN",
        help="Rows to compare them with, named likewise; repeatable. Without it, every two of those named.",
    ),
]
Near = Annotated[
    float, typer.Option("--near", min=0, max=1, help="Jaccard similarity that makes texts the same; 0: do not look.")
]
Words = Annotated[
    int, typer.Option("--words", min=0, help="Words in a row, 5 or more, that make texts the same; 0: do not look.")
]
Listed = Annotated[bool, typer.Option("--list", help="Print each overlap as a line of JSON, in place of the table.")]
FailOnOverlap = Annotated[bool, typer.Option("--fail-on-overlap", help="Exit with 3 if there is any overlap.")]


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
    """Count the rows that others repeat: to the letter, nearly, or by words in a row.

    A row is counted once, under the strongest of the three.
    """
    from safereason.recipe.schema import Hygiene

    # At a lower similarity, MinHash would compare nearly every pair.
    if 0 < near < 0.1:
        raise InputError(f"--near {near:g}: texts so far apart have nothing in common; from 0.1 on, or 0 to not look")
    # Texts that have nothing to do with each other share shorter runs of words.
    if 0 < words < 5:
        raise InputError(f"--words {words}: at least 5 words in a row are compared; 0 does not look")
    pairs = _pair_sets(looked_at, against or [])
    _check_sets(pairs)
    hygiene = Hygiene(near_duplicate=near or None, shared_words=words or None)
    counts, overlaps = _compare_sets(pairs, hygiene, listed)
    if as_json:
        document: dict[str, object] = {
            "near_duplicate": hygiene.near_duplicate,
            "shared_words": hygiene.shared_words,
            "pairs": counts,
        }
        if listed:
            document["overlaps"] = overlaps
        output.print_json(document)
    elif listed:
        for line in overlaps:
            print(json.dumps(line, ensure_ascii=False))
    else:
        _print_overlap_table(counts, hygiene)
    total = sum(pair["any"] for pair in counts)
    # The result is printed before: a job that fails has to show why.
    if fail_on_overlap and total:
        raise BarNotMet(f"{total} {'overlap' if total == 1 else 'overlaps'} found; --list names them")


def _pair_sets(looked_at: list[str], against: list[str]) -> Pairs:
    """The sets to compare: each with all of `--against`, or without it each with those named after it.

    Raises:
        InputError: A set is named twice, or there is nothing to compare a set with.
    """
    # `./rows.jsonl` and `rows.jsonl` are the same file.
    names = Counter(str(Path(name)) for name in (*looked_at, *against))
    for name, count in names.items():
        if count > 1:
            raise InputError(f"{name}: is named twice; a set is not compared with itself")
    if against:
        return dict.fromkeys(looked_at, against)
    if len(looked_at) == 1:
        raise InputError(f"{looked_at[0]}: what is it compared with? name it with --against, such as a benchmark")
    # Overlap is mutual, so each pair of sets is compared once.
    return {name: looked_at[number:] for number, name in enumerate(looked_at[:-1], start=1)}


def _compared_with(pairs: Pairs) -> list[str]:
    """The sets that others are compared with, each once."""
    return list(dict.fromkeys(chain(*pairs.values())))


def _check_sets(pairs: Pairs) -> None:
    """Reads the first row of each set, so that all that are missing are named before hours of work begin.

    Raises:
        InputError: A set cannot be read or is empty. It names the last one; lines on stderr name the others.
    """
    problems: list[str] = []
    for name in dict.fromkeys((*pairs, *_compared_with(pairs))):
        try:
            # Every part is read: the train split may be there while the test split has to be downloaded.
            first_rows = [next(iter(source.stream(split)), None) for source, split in _parts_of_set(name)]
            if not any(first_rows):
                raise InputError(f"{name}: holds no row, so that nothing can be found in it; check the file")
        except InputError as error:
            # Two sets may lack the same thing, such as the folder of all public data.
            if str(error) not in problems:
                problems.append(str(error))
    for problem in problems[:-1]:
        say(visible(f"error: {problem}"))
    if problems:
        raise InputError(problems[-1])


def _compare_sets(pairs: Pairs, hygiene: "Hygiene", listed: bool) -> tuple[list[PairCounts], list[OverlapLine]]:
    """The counts of each pair, and the overlaps themselves where they are listed."""
    from safereason.data.overlap import build_indexes, compare_rows

    excerpts: dict[tuple[str, str], str] = {}

    def rows_to_index(name: str) -> Iterator["Example"]:
        for example in _rows_of_set(name, "reading"):
            # An index keeps hashes only, so the excerpts are taken on the way.
            if listed:
                excerpts[name, example.id] = _excerpt(example)
            yield example

    index_by_name = build_indexes({name: rows_to_index(name) for name in _compared_with(pairs)}, hygiene)
    counts: list[PairCounts] = []
    lines: list[OverlapLine] = []
    for name, others in pairs.items():
        matches: dict[str, Counter[str]] = {other: Counter() for other in others}
        rows = 0
        for example, hits in compare_rows(
            _rows_of_set(name, "comparing"), {other: index_by_name[other] for other in others}
        ):
            rows += 1
            for hit in hits:
                matches[hit.test_set][hit.match.how] += 1
                if listed:
                    lines.append(_overlap_line(name, example, hit, excerpts[hit.test_set, hit.match.key]))
        for other in others:
            counts.append(_pair_counts(name, other, rows, matches[other]))
    return counts, lines


def _pair_counts(name: str, other: str, rows: int, matches: Counter[str]) -> PairCounts:
    return {
        "looked_at": name,
        "against": other,
        "rows": rows,
        "exact": matches["exact"],
        "near": matches["near"],
        "words": matches["words"],
        "any": matches.total(),
    }


def _rows_of_set(name: str, doing: str) -> Iterator["Example"]:
    """The rows of a set, one by one. A row of the first part is left out of the others, by its id.

    The traces and the prompts of a data run share rows, and so may the splits of a source.
    """
    ids_of_first_part: set[str] = set()
    with progress(f"{doing} {name}", None) as advance:
        for number, (source, split) in enumerate(_parts_of_set(name)):
            for example in source.stream(split):
                if number == 0:
                    ids_of_first_part.add(example.id)
                elif example.id in ids_of_first_part:
                    continue
                advance("")
                yield example


def _parts_of_set(name: str) -> "list[tuple[Source, Split]]":
    """The sources and splits that a set consists of.

    Raises:
        InputError: There is no such source, file or run.
    """
    from safereason.data import sources

    if Path(name).is_dir():
        return [(sources.get(str(file)), "train") for file in _training_files(Path(name))]
    # A file's name may hold colons itself, so only a split after the last one counts.
    stem, _, suffix = name.rpartition(":")
    for split in get_args(sources.Split):
        if stem and suffix == split:
            return [(sources.get(stem), split)]
    source = sources.get(name)
    return [(source, split) for split in source.serves]


def _training_files(run: Path) -> list[Path]:
    """The files of a data run that a training reads: traces for SFT, prompts for RL, or both.

    Raises:
        InputError: The folder is no finished data run.
    """
    from safereason.runs.directory import is_finished, read_manifest
    from safereason.stages.data import TRACES, TRAIN

    manifest = read_manifest(run) or {}
    if manifest.get("stage") != "data" or not is_finished(run):
        raise InputError(f"{run}: no finished run of `data build`; name one, a file of examples or a source")
    files = [run / TRACES, run / TRAIN]
    return [file for file in files if file.is_file()]


def _excerpt(example: "Example") -> str:
    from safereason.data.overlap import compared_text

    return visible(" ".join(compared_text(example).split())[:EXCERPT])


def _overlap_line(name: str, example: "Example", hit: "Hit", excerpt: str) -> OverlapLine:
    match = hit.match
    similarity = match.similarity
    if similarity is not None:
        similarity = round(similarity, 3)
    return {
        "looked_at": visible(name),
        "id": visible(example.id),
        "against": visible(hit.test_set),
        "of": visible(match.key),
        "how": match.how,
        "similarity": similarity,
        "shared": match.shared,
        "text": _excerpt(example),
        "of_text": excerpt,
    }


def _print_overlap_table(counts: Iterable[PairCounts], hygiene: "Hygiene") -> None:
    """Prints one row per pair. A dash marks a check that was turned off: a 0 would say that it found nothing."""
    near_title = "near"
    if hygiene.near_duplicate:
        near_title = f"near {hygiene.near_duplicate:g}"
    words_title = "words"
    if hygiene.shared_words:
        words_title = f"{hygiene.shared_words} words"
    rows: list[tuple[object, ...]] = []
    for pair in counts:
        near = pair["near"] if hygiene.near_duplicate else "–"
        words = pair["words"] if hygiene.shared_words else "–"
        rows.append((pair["looked_at"], pair["against"], pair["rows"], pair["exact"], near, words, pair["any"]))
    output.print_table(("looked at", "against", "rows", "exact", near_title, words_title, "any"), rows)
