"""`safereason guard classify`: a guard's verdicts on rows, as JSONL."""

import math
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from safereason.cli import options as opt
from safereason.cli import output
from safereason.console import no_progress, progress, say
from safereason.errors import InputError
from safereason.recipe.limits import MOST_NEW_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from safereason.cli.guard_bulk import RayCluster
    from safereason.console import Advance
    from safereason.engines.spec import ModelSpec
    from safereason.guard.base import Guard
    from safereason.guard.classify import ClassifyOutput, ClassifySettings, StatusCounts
    from safereason.guard.guard_prompt import GuardPrompt
    from safereason.guard.output import VerdictFile
    from safereason.guard.rows import InputRow
    from safereason.runs.directory import OnExisting
    from safereason.runs.records import Record

EXAMPLES = opt.examples(
    "safereason guard classify --model runs/guard/rl/RUN rows.jsonl",
    "safereason guard classify --model runs/guard/rl/RUN rows.csv --field prompt=question --out verdicts.jsonl",
    "safereason guard classify --model runs/guard/rl/RUN rows.jsonl --fail-on unsafe --fail-on unparsed",
    "safereason guard classify --model runs/guard/rl/RUN rows/ --ray --out verdicts/",
)


class FailOnKind(str, Enum):
    """A kind of row that `--fail-on` does not allow."""

    unsafe = "unsafe"
    unparsed = "unparsed"


SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE|-",
        help="JSONL or CSV, plain or packed (.gz, .xz); by default JSONL on stdin. With --ray, parquet.",
    ),
]
PolicyOption = Annotated[
    str | None, typer.Option("--policy", metavar="POLICY", help="A shipped policy or a YAML file, for the guard's own.")
]
Fields = Annotated[
    list[str] | None,
    typer.Option(
        "--field", metavar="FIELD=COLUMN", help="Column to read prompt, response, messages or id from; repeatable."
    ),
]
Form = Annotated[
    Literal["jsonl", "csv"] | None,
    typer.Option("--format", help="Format of the rows; by default that of the file's name."),
]
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
    typer.Option(
        "--threshold", metavar="X", help="Call a row unsafe if it scores X or more, instead of by the guard's verdict."
    ),
]
Out = Annotated[
    str | None, typer.Option("--out", metavar="FILE", help="Where to write, in place of stdout; with --ray, a folder.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue after the rows in --out, and classify again those that failed.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the draws.")]
FailOn = Annotated[
    list[FailOnKind] | None,
    typer.Option(
        "--fail-on", metavar="unsafe|unparsed", help="Exit with 3 if a row is unsafe, or unparsed; repeatable."
    ),
]

Ray = Annotated[
    bool, typer.Option("--ray", help="Classify a parquet file or folder, also s3://..., by many workers on Ray.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address", metavar="ADDRESS", help="Address of a running cluster, such as auto, in place of a new one."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, metavar="N", help="Guards on Ray; by default one for each GPU, or for each 4 cores."
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option("--gpus-per-worker", metavar="N", help="GPUs of each guard on Ray, such as 2 or 0.5; by default 1."),
]
BatchRows = Annotated[
    int | None,
    typer.Option(
        "--batch-rows",
        min=1,
        metavar="N",
        help="Rows that a worker takes, writes and resumes together; by default 1024.",
    ),
]


@dataclass(frozen=True)
class RowInput:
    """Rows to classify, as the command line names them."""

    source: str
    """A file, or `-` for stdin."""
    form: Literal["jsonl", "csv"] | None
    """The format; None goes by the file's name."""
    limit: int | None
    """The most rows; None takes all."""
    gpus: int | None = None
    """The most GPUs that judge them at a time; None takes all."""

    @property
    def is_file(self) -> bool:
        """Whether the rows are there already. Those of a pipe may come one by one, and each waits for a verdict."""
        return self.source != "-" and Path(self.source).is_file()


def classify(
    source: SourceArgument = "-",
    model: opt.Model = None,
    base_url: opt.BaseUrl = None,
    policy: PolicyOption = None,
    field: Fields = None,
    form: Form = None,
    samples: Samples = 1,
    max_new_tokens: MaxNewTokens = None,
    threshold: Threshold = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: opt.OverwriteFile = False,
    limit: opt.Limit = None,
    seed: Seed = 0,
    precision: opt.PrecisionOption = None,
    gpus: opt.WorkGpus = None,
    fail_on: FailOn = None,
    ray: Ray = False,
    ray_address: RayAddress = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    batch_rows: BatchRows = None,
    verbose: opt.Verbose = False,
) -> None:
    """Say of each row whether it is safe, as one line of JSON each, in order."""
    if model is None:
        raise InputError("which guard? name a run of `guard train`, or another model, with --model")
    # NaN would pass Typer's own check of a range.
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold}: is no probability; it lies between 0 and 1")
    from safereason.engines.spec import ModelSpec
    from safereason.guard import rows
    from safereason.guard.classify import ClassifySettings

    spec = ModelSpec.parse(model)
    on_existing = _on_existing(resume, overwrite)
    most_gpus = opt.parse_work_gpus(gpus, dry_run=False).most
    if ray and gpus is not None:
        raise InputError(f"--gpus {gpus}: --ray has --workers and --gpus-per-worker; leave one of them out")
    cluster = _cluster(ray, ray_address, workers, batch_rows, gpus_per_worker)
    if gpus_per_worker is not None:
        _check_gpus_per_worker(gpus_per_worker, spec)
    if cluster and form:
        raise InputError(f"--format {form}: --ray reads parquet; leave one of them out")
    fields = rows.fields_of(field or ())
    check_precision_option(precision, spec)
    # Libraries that look the model up may print.
    with output.results_only():
        guard_prompt = requested_guard_prompt(spec, policy, max_new_tokens)
    request = ClassifySettings(spec, base_url, guard_prompt, samples, threshold, seed, fields, precision)
    if cluster:
        from safereason.cli.guard_bulk import classify_on_ray

        with output.results_only():
            tally, rows_before, seconds = classify_on_ray(request, source, out, on_existing, limit, cluster)
    else:
        row_input = RowInput(source, form, limit, most_gpus)
        tally, rows_before, seconds = _classify_input(request, row_input, Path(out) if out else None, on_existing)
    # All records are written. Only now may rows end the command with an exit code of their own.
    _print_summary(tally, rows_before, seconds)
    tally.check([kind.value for kind in fail_on or ()], can_resume=out is not None and cluster is None)


def requested_guard_prompt(model: "ModelSpec", policy: str | None, max_new_tokens: int | None) -> "GuardPrompt":
    """The guard's own prompt, with the policy and the number of tokens of the options."""
    from safereason.guard import open as guards

    guard_prompt = guards.guard_prompt_of(model, policy=policy)
    if max_new_tokens is None:
        return guard_prompt
    return replace(guard_prompt, sampling=guard_prompt.sampling.model_copy(update={"max_new_tokens": max_new_tokens}))


def check_precision_option(precision: str | None, model: "ModelSpec") -> None:
    """Refuses `--precision` where a server computes.

    Raises:
        InputError: The model is behind one.
    """
    if precision is not None and model.is_remote:
        raise InputError(f"--precision {precision}: {model} computes on its server; leave it out")


def _on_existing(resume: bool, overwrite: bool) -> "OnExisting":
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; pass one of them")
    if resume:
        return "resume"
    if overwrite:
        return "overwrite"
    return "refuse"


def _cluster(
    ray: bool, address: str | None, workers: int | None, batch_rows: int | None, gpus_per_worker: float | None
) -> "RayCluster | None":
    """The workers on Ray; None where this process classifies.

    Raises:
        InputError: An option for Ray is given without `--ray`.
    """
    from safereason.cli.guard_bulk import BATCH_ROWS, RayCluster

    if ray:
        return RayCluster(address, workers, batch_rows or BATCH_ROWS, gpus_per_worker)
    given = {
        "--ray-address": address,
        "--workers": workers,
        "--batch-rows": batch_rows,
        "--gpus-per-worker": gpus_per_worker,
    }
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name} {value}: is for --ray; add that, or leave it out")
    return None


def _check_gpus_per_worker(gpus: float, model: "ModelSpec") -> None:
    """Refuses a number of GPUs that no guard can be given.

    Raises:
        InputError: It is neither whole nor a share of one, or it is above 1 and the engine has no use for it.
    """
    # Written so that NaN is refused, too.
    if not 0 < gpus < math.inf or (gpus > 1 and gpus % 1):
        raise InputError(f"--gpus-per-worker {gpus:g}: is no number of GPUs; give a whole one, or a share such as 0.5")
    if model.is_remote:
        raise InputError(f"--gpus-per-worker {gpus:g}: {model} runs on its server; leave it out")
    if gpus > 1 and model.engine != "vllm":
        raise InputError(
            f"--gpus-per-worker {gpus:g}: only vLLM spreads a model over several GPUs; pass --model vllm/{model}"
        )


def _classify_input(
    request: "ClassifySettings", row_input: RowInput, out: Path | None, on_existing: "OnExisting"
) -> "tuple[StatusCounts, int, float]":
    """Classifies the rows of a file or a pipe in order, and writes each record when it is there.

    Returns:
        The count of all rows, the number of them that an earlier command finished, and the seconds of the work without
        the loading of the guard.
    """
    from safereason.guard import rows
    from safereason.guard.classify import ClassifyOutput

    # Inside the context, `sys.stdout` is stderr, so that the real stream has to be taken before.
    write_to_stdout = _stdout_writer()
    is_terminal = sys.stdout.isatty()
    with rows.opened(row_input.source, row_input.form, request.fields) as opened_rows, output.results_only():
        target = _target_file(row_input.source, out, request, on_existing)
        if target is None:
            # Records on a terminal and a progress bar would overwrite each other.
            progress_context = nullcontext(no_progress) if is_terminal else _row_progress(row_input, 0)
            to_stdout = ClassifyOutput(write_to_stdout)
            tally, seconds = _classify_rows(request, row_input, opened_rows, to_stdout, progress_context)
            return tally, 0, seconds
        # Two commands that append to one file would mix their rows.
        with target.locked():
            # Only a file can be read twice: a pipe is consumed by the first look.
            if row_input.source != rows.STDIN and Path(row_input.source).is_file():
                with rows.opened(row_input.source, row_input.form, request.fields) as rows_again:
                    finished = target.finished(rows_again, row_input.limit)
                # The same command, run again, shows the result that is there and loads no model.
                if finished is not None:
                    return finished, finished.rows, 0.0
                target.check()
                with rows.opened(row_input.source, row_input.form, request.fields) as rows_again:
                    target.check_input(rows_again)
            return _classify_into_file(target, request, row_input, opened_rows)


def _classify_into_file(
    target: "VerdictFile", request: "ClassifySettings", row_input: RowInput, opened_rows: "Iterator[InputRow]"
) -> "tuple[StatusCounts, int, float]":
    """Classifies the rows that the file lacks, and on a resume also those whose verdict failed.

    Returns:
        As `_classify_input`.
    """
    from safereason.guard.classify import ClassifyOutput

    target.check()
    records_to_replace: dict[int, Record] = {}

    def keep(record: "Record") -> None:
        records_to_replace[record["row"]] = record

    try:
        with target.open() as log:
            rows_before = target.count()
            to_file = ClassifyOutput(
                log.append, earlier_records=target.records(), on_replaced=keep, on_chunk=target.noting()
            )
            progress_context = _row_progress(row_input, rows_before)
            tally, seconds = _classify_rows(request, row_input, opened_rows, to_file, progress_context)
    finally:
        # The log only appends. Lines in the middle are replaced once it is closed, also where the command is ended.
        target.replace(records_to_replace)
    target.finish(tally.rows, row_input.limit)
    return tally, rows_before - len(records_to_replace), seconds


def _classify_rows(
    request: "ClassifySettings",
    row_input: RowInput,
    opened_rows: "Iterator[InputRow]",
    record_output: "ClassifyOutput",
    progress_context: "AbstractContextManager[Advance]",
) -> "tuple[StatusCounts, float]":
    """Opens the guard, on each of several GPUs, and classifies rows.

    Args:
        request: The guard and its settings.
        row_input: The input, for its limit.
        opened_rows: The rows themselves.
        record_output: Takes the records, and gives those of an earlier command.
        progress_context: Its function is called after each record.

    Returns:
        The count of all rows, and the seconds; without the loading of the guard, if there is one.
    """
    from safereason.guard import rows
    from safereason.guard.classify import classify as classify_in_order
    from safereason.stages.placement import place_guard

    placed, environments = place_guard(request, row_input.gpus, is_alone=not row_input.is_file)
    guard: Guard | ClassifySettings = placed
    if len(environments) < 2:
        guard = placed.open()
    # A person who forgot the file's name would wait for output forever.
    if row_input.source == rows.STDIN and sys.stdin.isatty():
        say('reading rows from the terminal, such as {"prompt": "..."}; Ctrl-D ends them')
    hint = _TokenLimitHint(request.guard_prompt.sampling.max_new_tokens)
    with progress_context as advance:

        def emit(record: "Record") -> None:
            record_output.write(record)
            hint.look_at(record)
            advance("")

        # The clock starts after the guard is loaded: the rate is for planning longer runs.
        start = time.monotonic()
        tally = classify_in_order(
            guard,
            islice(opened_rows, row_input.limit),
            replace(record_output, write=emit),
            seed=request.seed,
            threshold=request.threshold,
            environments=environments,
        )
    return tally, time.monotonic() - start


class _TokenLimitHint:
    """A hint about `--max-new-tokens`, printed at the first verdict that the limit of tokens cut off."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._is_printed = False

    def look_at(self, record: "Record") -> None:
        """Prints the hint where the record's verdict was cut off, unless it was printed before."""
        from safereason.guard.base import CUT

        if self._is_printed or not record["unparsed"]:
            return
        reason = record.get("reason") or ""
        if reason.endswith(CUT):
            self._is_printed = True
            say(
                f"row {record['row']}: no verdict within {self._limit} tokens; --max-new-tokens sets this limit: lower "
                "for a model that never decides, higher for one that reasons longer"
            )


def _stdout_writer() -> "Callable[[Record], None]":
    """A function that writes a record to the present stdout, in UTF-8 in every locale."""
    from safereason.runs.records import line_of

    stream = sys.stdout.buffer

    def write(record: "Record") -> None:
        stream.write(line_of(record))
        # A reader at the other end of the pipe gets each verdict at once.
        stream.flush()

    return write


def _target_file(
    source: str, out: Path | None, request: "ClassifySettings", on_existing: "OnExisting"
) -> "VerdictFile | None":
    """The file of `--out`, checked before a model is loaded; None for stdout.

    Raises:
        InputError: The file cannot be written to, or `--resume` or `--overwrite` come without one.
    """
    from safereason.guard.output import VerdictFile
    from safereason.guard.rows import STDIN

    if out is None:
        if on_existing != "refuse":
            raise InputError(f"--{on_existing}: of which file? name it with --out")
        return None
    if source != STDIN and out.exists() and Path(source).exists() and out.samefile(source):
        raise InputError(f"--out {out}: is the file that is read; name another")
    if out.is_dir():
        raise InputError(f"{out}: is a directory; name a file")
    return VerdictFile(out, request.identity(), on_existing)


def _row_progress(row_input: RowInput, finished: int) -> "AbstractContextManager[Advance]":
    return progress("rows", _count_rows(row_input), finished)


def _count_rows(row_input: RowInput) -> int | None:
    """The number of rows, where that is the number of lines; None for a pipe, a packed file and CSV."""
    from safereason.files import PACKED
    from safereason.guard.rows import STDIN, count_lines

    path = Path(row_input.source)
    if row_input.source == STDIN or not path.is_file():
        return None
    # A quoted field of CSV may hold line breaks, and a packed file would have to be unpacked twice.
    if row_input.form == "csv" or path.suffix.lower() in (".csv", *PACKED):
        return None
    return min(count_lines(path), row_input.limit or sys.maxsize)


def _print_summary(tally: "StatusCounts", rows_before: int, seconds: float) -> None:
    """Prints the counts and the rate on stderr."""
    counts = ", ".join(f"{tally.counts[kind]} {kind}" for kind in ("unsafe", "safe", "unparsed"))
    if tally.counts["cut"]:
        counts += f" ({tally.counts['cut']} of them cut at the limit of tokens)"
    total = f"{tally.rows} rows"
    if tally.rows == 1:
        total = "1 row"
    if rows_before:
        total += f" ({rows_before} from before)"
    # The rate is that of this command's rows. Without any, there is none.
    new_rows = tally.rows - rows_before
    rate = ""
    if new_rows and seconds > 0:
        rate = f", {new_rows / seconds:.1f} rows/s"
    say(f"{total}: {counts}; {seconds:.1f} s{rate}")
