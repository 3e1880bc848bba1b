"""`safereason report`: one HTML page from runs."""

from pathlib import Path
from typing import Annotated

import typer

from safereason.cli import options as opt
from safereason.cli import stage
from safereason.runs.directory import read_manifest

EXAMPLES = opt.examples(
    "safereason report runs/rl/RUN runs/eval/harmbench/RUN --title mine",
    "safereason report runs/*/tars-smoke--* runs/eval/*/tars-smoke--*",
)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directories of any stage.")],
    title: Annotated[
        str | None, typer.Option("--title", help="Heading of the page; by default the recipes' names.")
    ] = None,
    out: opt.Out = None,
    root: opt.Root = opt.RUNS,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write one self-contained HTML page: settings, curves, figures beside the paper's, transcripts."""
    from safereason.stages import report as stage_report

    recipes = {str(manifest["recipe"]) for path in runs if (manifest := read_manifest(path))}
    options = opt.stage_options(root, out)
    heading = title or ", ".join(sorted(recipes)) or "report"
    stage.carry_out(lambda: stage_report.run(runs, options, heading), as_json)
