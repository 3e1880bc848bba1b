"""The page's part on guards: F1 by set beside baselines and known figures, and what the figures are made of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from safereason.evals.metrics import OVERALL, Figure
from safereason.evals.paper import GuardScore, guard_scores
from safereason.report import plots
from safereason.report.plots import Plot
from safereason.report.read import Line, Model, Run, number
from safereason.report.tables import figures_of

Cells = tuple[Figure | None, ...]
"""One figure a model; None where it was not measured."""


@dataclass(frozen=True)
class SetScores:
    """One set's row of the table of F1."""

    name: str
    f1: Cells
    parsed: Cells
    always_unsafe: Figure | None
    """F1 of calling every row unsafe."""
    known: tuple[GuardScore, ...]
    """What others give for it."""


@dataclass(frozen=True)
class Confusion:
    """How often one model gave which verdict: set, expected label, and the rows called unsafe, safe and neither."""

    model: Model
    rows: tuple[tuple[str, str, int, int, int], ...]


@dataclass(frozen=True)
class GuardPart:
    """What the page shows of guards."""

    models: tuple[Model, ...]
    scores: tuple[SetScores, ...]
    confusions: tuple[Confusion, ...]
    recalls: tuple[tuple[str, str, Cells], ...]
    """Set, category and the recall of each model."""
    plots: list[Plot]
    notes: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the known figures come from, each once."""
        return tuple(dict.fromkeys(score.source for row in self.scores for score in row.known))


def part(runs: Sequence[Run], models: Sequence[Model]) -> GuardPart | None:
    """Puts it together from the runs of `eval/guard`, one a model; None where there are none."""
    by_subject = {run.subject: run for run in runs}
    measured = [(model, by_subject[model.subject]) for model in models if model.subject in by_subject]
    if not measured:
        return None
    return GuardPart(
        models=tuple(model for model, _ in measured),
        scores=tuple(_scores([run for _, run in measured])),
        confusions=tuple(_confusion(model, run) for model, run in measured),
        recalls=tuple(_recalls([run for _, run in measured])),
        plots=_reliability(measured),
        notes=tuple(note for model, run in measured for note in _notes(model, run)),
    )


def _scores(runs: Sequence[Run]) -> Iterable[SetScores]:
    figures = [{(f.name, f.group): f for f in figures_of(run)} for run in runs]
    for name in dict.fromkeys(group for table in figures for _, group in table):
        baselines = [table.get(("f1_always_unsafe", name)) for table in figures]
        yield SetScores(
            name="all sets, weighted by rows" if name == OVERALL else name,
            f1=tuple(table.get(("f1", name)) for table in figures),
            parsed=tuple(table.get(("f1_parsed", name)) for table in figures),
            always_unsafe=next((baseline for baseline in baselines if baseline), None),
            known=guard_scores(name),
        )


def _confusion(model: Model, run: Run) -> Confusion:
    rows = []
    for name, table in _mapping(run.metrics.get("confusion")).items():
        for expected, counts in _mapping(table).items():
            unsafe, safe, unparsed = (_count(_mapping(counts).get(key)) for key in ("unsafe", "safe", "unparsed"))
            rows.append((name, expected, unsafe, safe, unparsed))
    return Confusion(model, tuple(rows))


def _recalls(runs: Sequence[Run]) -> Iterable[tuple[str, str, Cells]]:
    tables = [dict(_recalls_of(run)) for run in runs]
    for name, category in dict.fromkeys(key for table in tables for key in table):
        yield name, category, tuple(table.get((name, category)) for table in tables)


def _recalls_of(run: Run) -> Iterable[tuple[tuple[str, str], Figure]]:
    for name, rows in _mapping(run.metrics.get("categories")).items():
        for row in map(_mapping, rows if isinstance(rows, list) else ()):
            value, low, high = (number(row.get(key)) for key in ("recall", "low", "high"))
            yield (name, str(row.get("category"))), Figure("recall", value, _count(row.get("n")), low, high)


def _reliability(measured: Sequence[tuple[Model, Run]]) -> list[Plot]:
    lines, errors = [], []
    for model, run in measured:
        curve = _mapping(_mapping(run.metrics.get("reliability")).get(OVERALL))
        bins = curve.get("bins")
        pairs = [
            (number(b.get("mean_score")), number(b.get("share_unsafe")))
            for b in map(_mapping, bins if isinstance(bins, list) else ())
        ]
        points = [(x, y) for x, y in pairs if x is not None and y is not None]
        error = number(curve.get("calibration_error"))
        if points and error is not None:
            lines.append(Line(model.label, tuple(x for x, _ in points), tuple(y for _, y in points)))
            errors.append(f"{model.label}: off by {100 * error:.1f} % on average (n = {_count(curve.get('n'))}).")
    if not lines:
        return []
    caption = f"Over all sets, by tenth of the score; on the diagonal a score is a probability. {' '.join(errors)}"
    return [plots.reliability("reliability", "Reliability of the scores", lines, caption)]


def _notes(model: Model, run: Run) -> Iterable[str]:
    missing = ", ".join(_mapping(run.metrics.get("missing")))
    if missing:
        yield f"{model.label}: sets that could not be had were left out: {missing}."
    if failed := _count(run.metrics.get("failed")):
        yield f"{model.label}: {failed} rows could not be asked about and are left out."
    if run.metrics.get("predictions"):
        yield f"{model.label}: scored from a file of predictions."


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return int(number(value) or 0)
