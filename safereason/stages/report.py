"""The report stage: finished runs in, one self-contained HTML page and its plots out."""

import re
from collections.abc import Sequence
from pathlib import Path

from safereason.errors import InputError
from safereason.runs.records import write_bytes, write_text
from safereason.stages.base import Options, Result

PAGE = "report.html"


def run(runs: Sequence[Path], options: Options, title: str) -> Result:
    """Writes `report.html` and `plots/` to `options.out`, by default `options.root/report/<title>`.

    A report that is there already is written anew: nothing in it is worth keeping, and it takes seconds.

    Raises:
        InputError: No run is given, one is missing, unfinished or none at all, or the place cannot be written.
    """
    from safereason.report.page import build, render
    from safereason.report.read import read_runs

    if not runs:
        raise InputError("report: no run is given; name the directories of finished runs")
    page = build(read_runs(runs), title)
    out = options.out or options.root / "report" / slug(title)
    try:
        _remove_plots(out / "plots")
        for plot in page.plots:
            write_bytes(out / "plots" / f"{plot.name}.svg", plot.svg)
            write_bytes(out / "plots" / f"{plot.name}.png", plot.png)
        write_text(out / PAGE, render(page))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    return Result(
        out, {"page": str(out / PAGE), "runs": len(page.runs), "models": page.shares(), "left_out": page.left_out}
    )


def _remove_plots(folder: Path) -> None:
    """Removes an earlier report's plots, by their names: this one may have fewer."""
    for path in folder.glob("*"):
        if re.fullmatch(r"(?:tradeoff|reliability|groups-|separation-|sft-|rl-|guard-).*\.(?:svg|png)", path.name):
            path.unlink()


def slug(title: str) -> str:
    """A title as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "report"
