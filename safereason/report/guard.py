"""The page's section on guards: F1 by set beside baselines and published figures, then the verdicts behind them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from safereason.evals.metrics import OVERALL, Figure
from safereason.evals.paper import GuardScore, guard_scores
from safereason.report import plots
from safereason.report.plots import Plot
from safereason.report.read import Line, MeasuredModel, Run, by_subject, number
from safereason.report.tables import read_figures
from safereason.runs.records import Record

FigureOfEachModel = tuple[Figure | None, ...]
"""One figure for each model; None where it was not measured."""
PLOT = "reliability"
"""Name of the section's plot, by which the page finds it."""


@dataclass(frozen=True)
class SetScores:
    """One set's row of the table of F1."""

    name: str
    f1: FigureOfEachModel
    parsed: FigureOfEachModel
    """F1 over the rows with a verdict."""
    always_unsafe: Figure | None
    """F1 of a guard that calls every row unsafe."""
    known: tuple[GuardScore, ...]
    """Published figures for the set."""


@dataclass(frozen=True)
class Confusion:
    """Counts of one model's verdicts: set, expected label, and the rows called unsafe, safe and neither."""

    model: MeasuredModel
    rows: tuple[tuple[str, str, int, int, int], ...]


@dataclass(frozen=True)
class GuardPart:
    """The page's section on guards."""

    models: tuple[MeasuredModel, ...]
    scores: tuple[SetScores, ...]
    confusions: tuple[Confusion, ...]
    recalls: tuple[tuple[str, str, FigureOfEachModel], ...]
    """Set, category and the recall of each model."""
    plots: list[Plot]
    notes: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of the published figures, each once."""
        sources: dict[str, None] = {}
        for row in self.scores:
            for score in row.known:
                sources[score.source] = None
        return tuple(sources)


def guard_part(runs: Sequence[Run], models: Sequence[MeasuredModel]) -> GuardPart | None:
    """The section made of the runs of `eval/guard`, one for each model; None without such runs."""
    runs_by_subject = by_subject(runs)
    guards: list[MeasuredModel] = []
    guard_runs: list[Run] = []
    for model in models:
        if model.subject in runs_by_subject:
            guards.append(model)
            guard_runs.append(runs_by_subject[model.subject])
    if not guards:
        return None
    confusions = []
    notes: list[str] = []
    for model, run in zip(guards, guard_runs, strict=True):
        confusions.append(_confusion_of(model, run))
        notes += _guard_notes(model, run)
    return GuardPart(
        models=tuple(guards),
        scores=tuple(_set_scores(guard_runs)),
        confusions=tuple(confusions),
        recalls=tuple(_recall_rows(guard_runs)),
        plots=_reliability_plots(guards, guard_runs),
        notes=tuple(notes),
    )


def _set_scores(runs: Sequence[Run]) -> Iterator[SetScores]:
    """The rows of the table of F1, in the order in which the runs name the sets."""
    # Guards may have been measured on other sets. The table has a row for each set of any of them.
    tables: list[dict[tuple[str, str], Figure]] = []
    set_names: dict[str, None] = {}
    for run in runs:
        table = {(figure.name, figure.group): figure for figure in read_figures(run)}
        tables.append(table)
        for _, name in table:
            set_names[name] = None
    for name in set_names:
        shown_name = name
        if name == OVERALL:
            shown_name = "all sets, weighted by rows"
        yield SetScores(
            name=shown_name,
            f1=_cells_of(tables, ("f1", name)),
            parsed=_cells_of(tables, ("f1_parsed", name)),
            always_unsafe=_first_baseline(tables, name),
            known=guard_scores(name),
        )


def _first_baseline(tables: Sequence[dict[tuple[str, str], Figure]], set_name: str) -> Figure | None:
    """F1 of calling every row of a set unsafe."""
    # The baseline depends on the labels alone, so every run that has it gives the same value.
    for table in tables:
        if figure := table.get(("f1_always_unsafe", set_name)):
            return figure
    return None


def _confusion_of(model: MeasuredModel, run: Run) -> Confusion:
    rows = []
    for name, table in _as_mapping(run.metrics.get("confusion")).items():
        for expected, cell in _as_mapping(table).items():
            counts = _as_mapping(cell)
            unsafe = _as_count(counts.get("unsafe"))
            safe = _as_count(counts.get("safe"))
            unparsed = _as_count(counts.get("unparsed"))
            rows.append((name, expected, unsafe, safe, unparsed))
    return Confusion(model, tuple(rows))


def _recall_rows(runs: Sequence[Run]) -> Iterator[tuple[str, str, FigureOfEachModel]]:
    """Set, category and each run's recall of that category's unsafe rows."""
    tables = [dict(_recalls_of(run)) for run in runs]
    keys: dict[tuple[str, str], None] = {}
    for table in tables:
        keys |= dict.fromkeys(table)
    for name, category in keys:
        yield name, category, _cells_of(tables, (name, category))


def _cells_of(tables: Sequence[dict[tuple[str, str], Figure]], key: tuple[str, str]) -> FigureOfEachModel:
    """The figure under a key in each table."""
    return tuple(table.get(key) for table in tables)


def _recalls_of(run: Run) -> Iterator[tuple[tuple[str, str], Figure]]:
    """The recalls of one run by set and category."""
    for name, rows in _as_mapping(run.metrics.get("categories")).items():
        for row in _as_mappings(rows):
            recall = Figure(
                "recall",
                number(row.get("recall")),
                _as_count(row.get("n")),
                number(row.get("low")),
                number(row.get("high")),
            )
            yield (name, str(row.get("category"))), recall


def _reliability_plots(models: Sequence[MeasuredModel], runs: Sequence[Run]) -> list[Plot]:
    """One plot with the curve of every guard that gives scores; none where no guard does."""
    lines = []
    errors = []
    for model, run in zip(models, runs, strict=True):
        curve = _as_mapping(_as_mapping(run.metrics.get("reliability")).get(OVERALL))
        error = number(curve.get("calibration_error"))
        line = _reliability_line(model.label, curve.get("bins"))
        if line is None or error is None:
            continue
        lines.append(line)
        errors.append(f"{model.label}: off by {100 * error:.1f} % on average (n = {_as_count(curve.get('n'))}).")
    if not lines:
        return []
    caption = f"Over all sets, by tenth of the score; on the diagonal a score is a probability. {' '.join(errors)}"
    return [plots.reliability_curve(PLOT, "Reliability of the scores", lines, caption)]


def _reliability_line(label: str, bins: object) -> Line | None:
    """The share that is unsafe over the mean score of each bin; None where all bins are empty."""
    scores = []
    shares = []
    for row in _as_mappings(bins):
        score = number(row.get("mean_score"))
        share = number(row.get("share_unsafe"))
        # A bin that no score fell into has neither.
        if score is not None and share is not None:
            scores.append(score)
            shares.append(share)
    if not scores:
        return None
    return Line(label, tuple(scores), tuple(shares))


def _guard_notes(model: MeasuredModel, run: Run) -> Iterator[str]:
    # Figures over other rows are not comparable, so a reader has to know which rows are missing.
    missing = ", ".join(_as_mapping(run.metrics.get("missing")))
    if missing:
        yield f"{model.label}: sets that could not be had were left out: {missing}."
    if failed := _as_count(run.metrics.get("failed")):
        yield f"{model.label}: {failed} rows failed and are left out."
    if run.metrics.get("predictions"):
        yield f"{model.label}: scored from a file of predictions."


# A run may be of an earlier version, or edited by hand. Its metrics are read as far as they have the expected types, so
# that one odd value costs a cell of the page and not the page.


def _as_mapping(value: object) -> Record:
    if isinstance(value, dict):
        return value
    return {}


def _as_mappings(value: object) -> list[Record]:
    """A mapping for each item of a list; none for any other value."""
    if not isinstance(value, list):
        return []
    return [_as_mapping(item) for item in value]


def _as_count(value: object) -> int:
    return int(number(value) or 0)
