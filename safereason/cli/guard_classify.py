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
    from safereason.guard.classify import Tally, Target
    from safereason.runs.records import Record

EPILOG = opt.examples(
    "safereason guard classify --model runs/guard/rl/RUN rows.jsonl",
    "safereason guard classify --model runs/guard/rl/RUN rows.csv --field prompt=question --out verdicts.jsonl",
    "safereason guard classify --model runs/guard/rl/RUN rows.jsonl --fail-on unsafe --fail-on unparsed",
)


class Bar(str, Enum):
    """What no row is to be."""

    unsafe = "unsafe"
    unparsed = "unparsed"


Source = Annotated[str, typer.Argument(metavar="FILE|-", help="JSONL or CSV; by default JSONL on stdin.")]
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
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write, in place of stdout.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on after the rows that --out holds.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out where it is there.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the draws.")]
FailOn = Annotated[
    list[Bar] | None,
    typer.Option("--fail-on", metavar="unsafe|unparsed", help="Exit with 3 where a row is so; repeatable."),
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
    verbose: opt.Verbose = False,
) -> None:
    """Say of each row whether it is safe, as one line of JSON each, in order."""
    if model is None:
        raise InputError("which guard? name a run of `guard train`, or another model, with --model")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold}: is no probability; it lies between 0 and 1")
    from safereason.guard import rows
    from safereason.guard.classify import CHUNK
    from safereason.guard.classify import classify as classify_rows
    from safereason.guard.open import guide_of, open_guard

    fields, is_shown = rows.fields_of(field or ()), out is None and sys.stdout.isatty()
    write = _to_stdout()
    with rows.opened(source, form, fields) as read, output.results_only():
        guide = guide_of(model, policy=policy).document()
        identity = {"model": model, "guide": guide, "samples": samples, "threshold": threshold, "seed": seed,
                    "fields": fields, "rows_a_chunk": CHUNK}  # fmt: skip
        target = _target(source, out, identity, resume, overwrite)
        guard = open_guard(model, base_url=base_url, policy=policy, samples=samples)
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
                tally = classify_rows(guard, islice(read, limit), emit, seed=seed, threshold=threshold, held=held)
    _sum_up(tally, finished, time.monotonic() - start)
    tally.check([bar.value for bar in fail_on or ()])


def _to_stdout() -> "Callable[[Record], None]":
    """Writes to stdout as it is now, and in UTF-8 whatever the locale."""
    from safereason.runs.records import line_of

    stream = sys.stdout.buffer

    def write(record: "Record") -> None:
        stream.write(line_of(record))
        stream.flush()

    return write


def _target(source: str, out: Path | None, identity: dict[str, Any], resume: bool, overwrite: bool) -> "Target | None":
    """The file of `--out`, checked before a model is loaded."""
    from safereason.guard.classify import Target

    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; pass one of them")
    if out is None:
        if resume or overwrite:
            raise InputError(f"{'--resume' if resume else '--overwrite'}: of which file? name it with --out")
        return None
    if source != "-" and out.exists() and Path(source).exists() and out.samefile(source):
        raise InputError(f"--out {out}: is the file that is read; name another")
    target = Target(out, identity, "resume" if resume else "overwrite" if overwrite else "refuse")
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
