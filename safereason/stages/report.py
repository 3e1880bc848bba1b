"""Stage `report`: one self-contained HTML page on finished runs, and its plots."""

import re
from collections.abc import Sequence
from pathlib import Path

from safereason.errors import InputError
from safereason.runs.records import write_bytes, write_text
from safereason.stages.base import Options, Result

PAGE = "report.html"


def write_report(runs: Sequence[Path], options: Options, title: str) -> Result:
    """Writes `report.html` and `plots/` to `options.out`, by default `options.root/report/<title>`.

    An earlier report is overwritten: a report holds nothing of its own, and takes seconds.

    Raises:
        InputError: No run is given, a directory holds no finished run, or the folder cannot be written.
    """
    from safereason.report.page import PLOTS, build_page, render_page
    from safereason.report.read import read_runs

    if not runs:
        raise InputError("report: no run is given; name the directories of finished runs")
    page = build_page(read_runs(runs), title)
    # Runs are read before anything is written, so a run that is missing leaves the old report as it is.
    out = options.out or options.root / "report" / slug(title)
    try:
        _remove_plots(out / "plots", PLOTS)
        for plot in page.plots:
            write_bytes(out / "plots" / f"{plot.name}.svg", plot.svg)
            write_bytes(out / "plots" / f"{plot.name}.png", plot.png)
        write_text(out / PAGE, render_page(page))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    return Result(
        out, {"page": str(out / PAGE), "runs": len(page.runs), "models": page.shares(), "left_out": page.left_out}
    )


def _remove_plots(folder: Path, beginnings: tuple[str, ...]) -> None:
    """Removes an earlier report's plots, by the beginnings of their names: this one may have fewer."""
    for path in folder.glob("*"):
        # Only names of our plots: a person may keep other files in the folder.
        if path.name.startswith(beginnings) and path.suffix in (".svg", ".png"):
            path.unlink()


def slug(title: str) -> str:
    """A folder's name for a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "report"
