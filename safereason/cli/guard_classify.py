"""`safereason guard classify`: rows in, verdicts out."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from safereason.cli import options as opt
from safereason.cli import output
from safereason.console import progress, say
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.cli.guard_bulk import Cluster
    from safereason.guard.classify import Asked, Tally, Target
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
    str, typer.Argument(metavar="FILE|-", help="JSONL or CSV; by default JSONL on stdin. With --ray, parquet.")
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
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="X", help="Unsafe is what scores X or more, whatever the guard's verdict."),
]
Out = Annotated[
    str | None, typer.Option("--out", metavar="FILE", help="Where to write, in place of stdout; with --ray, a folder.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on after what --out holds.")]
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
    from safereason.guard.open import guide_of

    on_existing: OnExisting = _on_existing(resume, overwrite)
    cluster = _cluster(ray, ray_address, workers, batch_rows)
    if cluster and form:
        raise InputError(f"--format {form}: --ray reads parquet; leave one of them out")
    fields = rows.fields_of(field or ())
    with output.results_only():
        asked = Asked(model, base_url, guide_of(model, policy=policy), samples, threshold, seed, fields)
    if cluster:
        from safereason.cli.guard_bulk import classify as classify_on_ray

        with output.results_only():
            tally, finished, seconds = classify_on_ray(asked, source, out, on_existing, limit, cluster)
    else:
        tally, finished, seconds = _in_order(asked, source, form, Path(out) if out else None, on_existing, limit)
    _sum_up(tally, finished, seconds)
    tally.check([bar.value for bar in fail_on or ()])


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
    from safereason.guard.classify import classify as classify_rows

    is_shown, write = out is None and sys.stdout.isatty(), _to_stdout()
    with rows.opened(source, form, asked.fields) as read, output.results_only():
        target = _target(source, out, asked.identity(), on_existing)
        guard = asked.open()
        if source == rows.STDIN and sys.stdin.isatty():
            say('reading rows from the terminal, such as {"prompt": "..."}; Ctrl-D ends them')
        with target.open() if target else nullcontext() as log:
            finished = rows.count_lines(target.path) if target else 0
            shown = (
                nullcontext(lambda note: None) if is_shown else progress("rows", _total(source, form, limit), finished)
            )
            with shown as advance:

                def emit(record: "Record") -> None:
                    (log.append if log else write)(record)
                    advance("")

                start = time.monotonic()
                held = target.held() if target else ()
                tally = classify_rows(
                    guard, islice(read, limit), emit, seed=asked.seed, threshold=asked.threshold, held=held
                )
    return tally, finished, time.monotonic() - start


def _to_stdout() -> "Callable[[Record], None]":
    """Writes to stdout as it is now, and in UTF-8 whatever the locale."""
    from safereason.runs.records import line_of

    stream = sys.stdout.buffer

    def write(record: "Record") -> None:
        stream.write(line_of(record))
        stream.flush()

    return write


def _target(source: str, out: Path | None, identity: dict[str, Any], on_existing: "OnExisting") -> "Target | None":
    """The file of `--out`, checked before a model is loaded."""
    from safereason.guard.classify import Target

    if out is None:
        if on_existing != "refuse":
            raise InputError(f"--{on_existing}: of which file? name it with --out")
        return None
    if source != "-" and out.exists() and Path(source).exists() and out.samefile(source):
        raise InputError(f"--out {out}: is the file that is read; name another")
    target = Target(out, identity, on_existing)
    target.check()
    return target


def _total(source: str, form: str | None, limit: int | None) -> int | None:
    """How many rows there are to come, where counting lines tells: not in a pipe, nor in CSV."""
    from safereason.guard.rows import STDIN, count_lines

    path = Path(source)
    if source == STDIN or "csv" in (form, path.suffix.lower().lstrip(".")) or not path.is_file():
        return None
    return min(count_lines(path), limit or sys.maxsize)


def _sum_up(tally: "Tally", finished: int, seconds: float) -> None:
    counts = ", ".join(f"{tally.counts[kind]} {kind}" for kind in ("unsafe", "safe", "unparsed"))
    new = tally.rows - finished
    before = f" ({finished} from before)" if finished else ""
    rate = f", {new / seconds:.1f} rows/s" if new and seconds > 0 else ""
    say(f"{tally.rows} row{'' if tally.rows == 1 else 's'}{before}: {counts}; {seconds:.1f} s{rate}")
