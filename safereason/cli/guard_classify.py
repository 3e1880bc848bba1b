"""`safereason guard classify`: rows in, verdicts out."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from safereason.cli import options as opt
from safereason.cli import output
from safereason.console import progress, say
from safereason.errors import InputError
from safereason.recipe.schema import MOST_NEW_TOKENS

if TYPE_CHECKING:
    from safereason.cli.guard_bulk import Cluster
    from safereason.guard.classify import Asked, Tally, Target
    from safereason.guard.guide import Guide
    from safereason.guard.rows import Row
    from safereason.runs.directory import OnExisting
    from safereason.runs.records import Record

EPILOG = opt.examples(
    "safereason guard classify --model runs/guard/rl/RUN rows.jsonl",
    "safereason guard classify --model runs/guard/rl/RUN rows.csv --field prompt=question --out verdicts.jsonl",
    "safereason guard classify --model runs/guard/rl/RUN rows.jsonl --fail-on unsafe --fail-on unparsed",
    "safereason guard classify --model runs/guard/rl/RUN rows/ --ray --out verdicts/",
)


class Bar(str, Enum):
    """What no row is to be."""

    unsafe = "unsafe"
    unparsed = "unparsed"


Source = Annotated[
    str,
    typer.Argument(
        metavar="FILE|-",
        help="JSONL or CSV, plain or packed (.gz, .xz); by default JSONL on stdin. With --ray, parquet.",
    ),
]
Policy = Annotated[
    str | None, typer.Option("--policy", metavar="POLICY", help="A shipped policy or a YAML file, for the guard's own.")
]
Fields = Annotated[
    list[str] | None,
    typer.Option(
        "--field", metavar="FIELD=COLUMN", help="Column to read prompt, response, messages or id from; repeatable."
    ),
]
Form = Annotated[Literal["jsonl", "csv"] | None, typer.Option("--format", help="By default what the file's name says.")]
Samples = Annotated[int, typer.Option("--samples", min=1, metavar="N", help="Verdicts that vote on a row.")]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        min=1,
        max=MOST_NEW_TOKENS,
        metavar="N",
        help="Tokens of a verdict, in place of the guard's own.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="X", help="Unsafe is what scores X or more, whatever the guard's verdict."),
]
Out = Annotated[
    str | None, typer.Option("--out", metavar="FILE", help="Where to write, in place of stdout; with --ray, a folder.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on after what --out holds, and ask again about rows that failed.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out where it is there.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the draws.")]
FailOn = Annotated[
    list[Bar] | None,
    typer.Option("--fail-on", metavar="unsafe|unparsed", help="Exit with 3 where a row is so; repeatable."),
]

Ray = Annotated[
    bool, typer.Option("--ray", help="Classify a parquet file or folder, also s3://..., by many workers on Ray.")
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="ADDRESS", help="A running cluster, such as auto, for a Ray of its own."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, metavar="N", help="Guards on Ray; by default one a GPU, or 4 cores.")
]
BatchRows = Annotated[
    int | None,
    typer.Option("--batch-rows", min=1, metavar="N", help="Rows a worker takes, writes and resumes as one; 1024."),
]


def classify(
    source: Source = "-",
    model: opt.Model = None,
    base_url: opt.BaseUrl = None,
    policy: Policy = None,
    field: Fields = None,
    form: Form = None,
    samples: Samples = 1,
    max_new_tokens: MaxNewTokens = None,
    threshold: Threshold = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    limit: opt.Limit = None,
    seed: Seed = 0,
    fail_on: FailOn = None,
    ray: Ray = False,
    ray_address: RayAddress = None,
    workers: Workers = None,
    batch_rows: BatchRows = None,
    verbose: opt.Verbose = False,
) -> None:
    """Say of each row whether it is safe, as one line of JSON each, in order."""
    if model is None:
        raise InputError("which guard? name a run of `guard train`, or another model, with --model")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold}: is no probability; it lies between 0 and 1")
    from safereason.guard import rows
    from safereason.guard.classify import Asked

    on_existing: OnExisting = _on_existing(resume, overwrite)
    cluster = _cluster(ray, ray_address, workers, batch_rows)
    if cluster and form:
        raise InputError(f"--format {form}: --ray reads parquet; leave one of them out")
    fields = rows.fields_of(field or ())
    with output.results_only():
        asked = Asked(model, base_url, guide_of(model, policy, max_new_tokens), samples, threshold, seed, fields)
    if cluster:
        from safereason.cli.guard_bulk import classify as classify_on_ray

        with output.results_only():
            tally, finished, seconds = classify_on_ray(asked, source, out, on_existing, limit, cluster)
    else:
        tally, finished, seconds = _in_order(asked, source, form, Path(out) if out else None, on_existing, limit)
    _sum_up(tally, finished, seconds)
    tally.check([bar.value for bar in fail_on or ()], can_resume=out is not None and cluster is None)


def guide_of(model: str, policy: str | None, max_new_tokens: int | None) -> "Guide":
    """The guard's own, but for what the options put in its place."""
    from safereason.guard import open as guards

    guide = guards.guide_of(model, policy=policy)
    if max_new_tokens is None:
        return guide
    return replace(guide, sampling=guide.sampling.model_copy(update={"max_new_tokens": max_new_tokens}))


def _on_existing(resume: bool, overwrite: bool) -> "OnExisting":
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; pass one of them")
    return "resume" if resume else "overwrite" if overwrite else "refuse"


def _cluster(ray: bool, address: str | None, workers: int | None, batch_rows: int | None) -> "Cluster | None":
    from safereason.cli.guard_bulk import BATCH_ROWS, Cluster

    if ray:
        return Cluster(address, workers, batch_rows or BATCH_ROWS)
    for name, value in {"--ray-address": address, "--workers": workers, "--batch-rows": batch_rows}.items():
        if value is not None:
            raise InputError(f"{name} {value}: is for --ray; add that, or leave it out")
    return None


def _in_order(
    asked: "Asked", source: str, form: Form, out: Path | None, on_existing: "OnExisting", limit: int | None
) -> "tuple[Tally, int, float]":
    """Rows of a file or a pipe, written as they come; how many were there before, and the seconds without loading."""
    from safereason.guard import rows

    is_shown, write = out is None and sys.stdout.isatty(), _to_stdout()
    with rows.opened(source, form, asked.fields) as read, output.results_only():
        target = _target(source, out, asked, on_existing)
        if target is None:
            return _asked(asked, source, form, read, limit, write, is_shown=is_shown)
        with target.locked():
            if source != rows.STDIN and Path(source).is_file():
                with rows.opened(source, form, asked.fields) as again:
                    before = target.finished(again, limit)
                if before is not None:
                    return before, before.rows, 0.0
                target.check()
                with rows.opened(source, form, asked.fields) as again:
                    target.check_input(again)
            return _into(target, asked, source, form, read, limit)


def _into(
    target: "Target", asked: "Asked", source: str, form: Form, read: "Iterator[Row]", limit: int | None
) -> "tuple[Tally, int, float]":
    """Rows into a file: those that are missing, and on a resume those that the guard could not be asked about."""
    target.check()
    mended: dict[int, Any] = {}
    try:
        with target.open() as log:
            finished = target.count()
            found = _asked(
                asked,
                source,
                form,
                read,
                limit,
                log.append,
                finished=finished,
                held=target.held(),
                mend=lambda record: mended.update({record["row"]: record}),
                on_chunk=target.noting(),
            )
    finally:
        target.mend(mended)
    tally, _, seconds = found
    target.finish(tally.rows, limit)
    return tally, finished - len(mended), seconds


def _asked(
    asked: "Asked",
    source: str,
    form: Form,
    read: "Iterator[Row]",
    limit: int | None,
    write: "Callable[[Record], None]",
    *,
    is_shown: bool = False,
    finished: int = 0,
    held: "Iterable[Record]" = (),
    mend: "Callable[[Record], None] | None" = None,
    on_chunk: "Callable[[Sequence[Row]], None] | None" = None,
) -> "tuple[Tally, int, float]":
    """Opens the guard and asks it, with a bar unless the records themselves are shown."""
    from safereason.guard import rows
    from safereason.guard.classify import classify as classify_rows

    guard = asked.open()
    if source == rows.STDIN and sys.stdin.isatty():
        say('reading rows from the terminal, such as {"prompt": "..."}; Ctrl-D ends them')
    bar = nullcontext(lambda note: None) if is_shown else progress("rows", _total(source, form, limit), finished)
    said = _SaidOnce(asked.guide.sampling.max_new_tokens)
    with bar as advance:

        def emit(record: "Record") -> None:
            write(record)
            said.cut(record)
            advance("")

        start = time.monotonic()
        tally = classify_rows(
            guard,
            islice(read, limit),
            emit,
            seed=asked.seed,
            threshold=asked.threshold,
            held=held,
            mend=mend,
            on_chunk=on_chunk,
        )
    return tally, finished, time.monotonic() - start


class _SaidOnce:
    """Says of the first verdict that was cut at its limit of tokens what that limit is and how it is set."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._is_said = False

    def cut(self, record: "Record") -> None:
        """Looks at a record."""
        from safereason.guard.classify import CUT

        if not self._is_said and record["unparsed"] and (record.get("reason") or "").endswith(CUT):
            self._is_said = True
            say(
                f"row {record['row']}: no verdict within {self._limit} tokens; --max-new-tokens sets this limit: lower "
                "for a model that never decides, higher for one that reasons longer"
            )


def _to_stdout() -> "Callable[[Record], None]":
    """Writes to stdout as it is now, and in UTF-8 whatever the locale."""
    from safereason.runs.records import line_of

    stream = sys.stdout.buffer

    def write(record: "Record") -> None:
        stream.write(line_of(record))
        stream.flush()

    return write


def _target(source: str, out: Path | None, asked: "Asked", on_existing: "OnExisting") -> "Target | None":
    """The file of `--out`, checked before a model is loaded."""
    from safereason.guard.classify import Target
    from safereason.guard.rows import STDIN

    if out is None:
        if on_existing != "refuse":
            raise InputError(f"--{on_existing}: of which file? name it with --out")
        return None
    if source != STDIN and out.exists() and Path(source).exists() and out.samefile(source):
        raise InputError(f"--out {out}: is the file that is read; name another")
    if out.is_dir():
        raise InputError(f"{out}: is a directory; name a file")
    return Target(out, asked.identity(), on_existing)


def _total(source: str, form: str | None, limit: int | None) -> int | None:
    """How many rows there are to come, where counting lines tells: not in a pipe, a packed file, nor CSV."""
    from safereason.files import PACKED
    from safereason.guard.rows import STDIN, count_lines

    path = Path(source)
    if source == STDIN or path.suffix.lower() in (".csv", *PACKED) or form == "csv" or not path.is_file():
        return None
    return min(count_lines(path), limit or sys.maxsize)


def _sum_up(tally: "Tally", finished: int, seconds: float) -> None:
    counts = ", ".join(f"{tally.counts[kind]} {kind}" for kind in ("unsafe", "safe", "unparsed"))
    if tally.counts["cut"]:
        counts += f" ({tally.counts['cut']} of them cut at the limit of tokens)"
    new = tally.rows - finished
    before = f" ({finished} from before)" if finished else ""
    rate = f", {new / seconds:.1f} rows/s" if new and seconds > 0 else ""
    say(f"{tally.rows} row{'' if tally.rows == 1 else 's'}{before}: {counts}; {seconds:.1f} s{rate}")
