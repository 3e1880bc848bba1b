"""`safereason eval compare`: runs of one evaluation side by side, what differs, and the paper's figures."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import output

if TYPE_CHECKING:
    from safereason.stages.compare import Comparison, Row

EXAMPLES = opt.examples(
    "safereason eval compare runs/eval/xstest/A runs/eval/xstest/B",
    "safereason eval compare runs/eval/harmbench/A runs/eval/harmbench/B --fail-if-worse dsr",
    "safereason eval compare runs/eval/guard/A runs/eval/guard/B runs/eval/guard/C --csv guards.csv",
)
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs of one evaluation.")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the table to this file.")]
Worse = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-if-worse",
        metavar="METRIC",
        help="Exit with 3 where a run is significantly worse than the first; may be repeated.",
    ),
]
Resamples = Annotated[int, typer.Option("--resamples", min=100, metavar="N", help="Bootstrap resamples.")]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the resamples.")]


def compare(
    runs: Runs,
    fail_if_worse: Worse = None,
    table: Csv = None,
    resamples: Resamples = 2000,
    seed: Seed = 0,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Compare runs of one evaluation: every figure, the difference to the first run, and the paper's value."""
    from safereason.console import say
    from safereason.runs.records import write_text
    from safereason.stages import compare as stage

    found = stage.runs(runs, resamples, seed)
    if table:
        write_text(table, _csv(found))
    for note in found.notes:
        say(note)
    if as_json:
        output.print_json({**stage.document(found), "resamples": resamples, "seed": seed})
    else:
        _print(found)
    for metric in fail_if_worse or ():
        stage.check_not_worse(found, metric)


def _csv(found: "Comparison") -> str:
    from safereason.stages.compare import flat

    text = io.StringIO(newline="")
    rows = [flat(row) for row in found.rows]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _print(found: "Comparison") -> None:
    output.print_table(
        ("run", "model", "judge", "path"),
        [(letter, run.model, run.metrics.get("judge"), run.path) for letter, run in found.runs.items()],
    )
    print()
    first = next(iter(found.runs))
    columns = (
        "figure",
        "of",
        "run",
        "value [95 % interval]",
        "n",
        "unscored",
        f"− {first} [95 % interval]",
        "p",
        "shared",
        "paper",
        "covers it",
    )
    output.print_table(columns, [_cells(row) for row in found.rows])
    for model, source in dict.fromkeys((row.paper.model, row.paper.source) for row in found.rows if row.paper):
        print(f"paper: {model} ({source})")


def _cells(row: "Row") -> tuple[object, ...]:
    figure, difference = row.figure, row.difference
    value = output.interval({"value": figure.value, "low": figure.low, "high": figure.high})
    beside = (f"{row.paper.value:.4g}" if row.paper else "", {True: "yes", False: "no", None: ""}[row.covered])
    if difference is None:
        return figure.name, figure.group, row.run, value, figure.n, figure.unscored, "", "", "", *beside
    p = f"{difference.p:.4f}" if difference.p >= 1e-4 else "<0.0001"
    ends = "" if difference.low is None else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    return (
        figure.name,
        figure.group,
        row.run,
        value,
        figure.n,
        figure.unscored,
        f"{difference.value:+.3f}{ends}",
        p,
        difference.n,
        *beside,
    )
