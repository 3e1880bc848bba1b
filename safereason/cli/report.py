"""`safereason report`: one HTML page about runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import stage

EXAMPLES = opt.examples(
    "safereason report runs/rl/RUN runs/eval/harmbench/RUN --title mine",
    "safereason report runs/*/tars-smoke--* runs/eval/*/tars-smoke--*",
)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directories of any stage.")],
    title: Annotated[
        str | None, typer.Option("--title", help="Heading of the page; by default the names of the recipes.")
    ] = None,
    out: opt.Out = None,
    root: opt.Root = opt.RUNS,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write one self-contained HTML page: settings, curves, figures beside the paper's, transcripts."""
    from safereason.stages import report as stage_report

    options = opt.stage_options(root, out)
    # Runs of one recipe, as of one model before and after training, name it once.
    heading = title or ", ".join(_recipe_names(runs)) or "report"
    stage.run_and_print(lambda: stage_report.write_report(runs, options, heading), as_json)


def _recipe_names(runs: Sequence[Path]) -> list[str]:
    """The names of the runs' recipes, sorted. A folder that is no run has none: the stage refuses it."""
    from safereason.runs.directory import read_manifest

    names: set[str] = set()
    for run in runs:
        manifest = read_manifest(run)
        if manifest:
            names.add(str(manifest["recipe"]))
    return sorted(names)
