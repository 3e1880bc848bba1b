"""`safereason eval compare`: runs of one evaluation side by side, what differs, and the paper's figures."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import output

if TYPE_CHECKING:
    from safereason.evals.compare import Difference
    from safereason.stages.compare import Comparison, ComparisonRow

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
        metavar="FIGURE",
        help="Exit with 3 if a run is significantly worse than the first; repeatable.",
    ),
]
Resamples = Annotated[int, typer.Option("--resamples", min=100, metavar="N", help="Bootstrap resamples.")]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of the resamples.")]


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

    comparison = stage.runs_to_compare(runs, resamples, seed)
    if table:
        write_text(table, _comparison_csv(comparison))
    # Notes come before the table: they say why figures may not be comparable.
    for note in comparison.notes:
        say(note)
    if as_json:
        output.print_json({**stage.comparison_document(comparison), "resamples": resamples, "seed": seed})
    else:
        _print_comparison(comparison)
    for metric in fail_if_worse or ():
        stage.check_not_worse(comparison, metric)


def _comparison_csv(comparison: "Comparison") -> str:
    from safereason.stages.compare import flat

    # The csv module writes line ends itself; translated again, they would be doubled on Windows.
    text = io.StringIO(newline="")
    rows = [flat(row) for row in comparison.rows]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _print_comparison(comparison: "Comparison") -> None:
    runs = [(letter, run.model, run.metrics.get("judge"), run.path) for letter, run in comparison.runs.items()]
    output.print_table(("run", "model", "judge", "path"), runs)
    print()
    first = next(iter(comparison.runs))
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
    output.print_table(columns, [_comparison_cells(row) for row in comparison.rows])
    models = [(row.paper.model, row.paper.source) for row in comparison.rows if row.paper]
    for model, source in dict.fromkeys(models):
        print(f"paper: {model} ({source})")


def _comparison_cells(row: "ComparisonRow") -> tuple[object, ...]:
    figure = row.figure
    value = output.interval({"value": figure.value, "low": figure.low, "high": figure.high})
    cells = (figure.name, figure.group, row.run, value, figure.n, figure.unscored)
    return (*cells, *_difference_cells(row.difference), *_paper_cells(row))


def _difference_cells(difference: "Difference | None") -> tuple[object, object, object]:
    """The difference with its interval, p, and the number of shared items; empty for the first run."""
    if difference is None:
        return "", "", ""
    text = f"{difference.value:+.3f}"
    if difference.low is not None:
        text += f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    # Four digits would show a smaller p as zero.
    p = "<0.0001"
    if difference.p >= 1e-4:
        p = f"{difference.p:.4f}"
    return text, p, difference.n


def _paper_cells(row: "ComparisonRow") -> tuple[str, str]:
    """The paper's value, and whether the run's interval covers it; empty where the paper has no such figure."""
    value = ""
    if row.paper:
        value = f"{row.paper.value:.4g}"
    covers = {True: "yes", False: "no", None: ""}
    return value, covers[row.covered]
