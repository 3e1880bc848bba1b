"""The page's tables of figures: the headline by model, every figure of an evaluation, and the papers' own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from safereason import evals, judges
from safereason.evals.metrics import OVERALL, Figure, FigureInfo
from safereason.evals.paper import TARS_FIGURE_3
from safereason.report.read import MeasuredModel, Run, Subject, number, of_stage
from safereason.runs.records import Record

PAPER_RATIO = 0.5
"""λ of the paper's main models."""


@dataclass(frozen=True)
class Column:
    """One figure of one evaluation."""

    evaluation: str
    name: str
    judge: str
    """The judge that scored it; empty for a figure without a judge."""
    source: str = ""
    """The data source of its prompts; empty where that is the evaluation's own."""

    @property
    def info(self) -> FigureInfo:
        """The description of the figure."""
        return evals.figure_info(self.evaluation, self.name)

    @property
    def title(self) -> str:
        """The title of the figure."""
        return figure_title(self.info)

    @property
    def measured_by(self) -> str:
        """Source and judge, as far as the column has them: `on mine.jsonl, by refusal`."""
        parts = []
        if self.source:
            parts.append(f"on {self.source}")
        if self.judge:
            parts.append(f"by {self.judge}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Headline:
    """The main table, a row for each model and a column for each figure; None where a model was not measured."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[MeasuredModel, tuple[Figure | None, ...]], ...]


@dataclass(frozen=True)
class FigureRow:
    """One figure of one group, for each model."""

    info: FigureInfo
    group: str
    figures: tuple[Figure | None, ...]

    @property
    def title(self) -> str:
        """The title of the figure."""
        return figure_title(self.info)


@dataclass(frozen=True)
class Details:
    """Every figure of one evaluation by one judge: a row for each figure and group, a column for each model."""

    evaluation: str
    judge: str
    """Empty for an evaluation without a judge."""
    source: str
    """The data source of its prompts; empty where that is the evaluation's own."""
    models: tuple[MeasuredModel, ...]
    rows: tuple[FigureRow, ...]


def figure_title(info: FigureInfo) -> str:
    """The title of a figure; its name with spaces where it has none."""
    return info.title or info.name.replace("_", " ")


def evaluation_title(name: str) -> str:
    """An evaluation as its publisher spells it."""
    return evals.title_of(name)


def judge_title(name: str) -> str:
    """A judge as the page names it; one that looks at the wording alone is called weak."""
    return judges.title_of(name)


def bare(value: float, unit: str | None) -> str:
    """A value in a `FigureInfo.unit`, without the unit; a share in percent."""
    if unit is None:
        return f"{100 * value:.1f}"
    if unit:
        return f"{value:.1f}"
    # A margin is of the order of 1, so that it needs more digits than a count of tokens.
    return f"{value:.3f}"


def quantity(value: float, unit: str | None) -> str:
    """A value with its `FigureInfo.unit`, as `98.9 %` or `312.4 tokens`."""
    if unit is None:
        return f"{bare(value, unit)}\u2009%"
    return f"{bare(value, unit)} {unit}".strip()


def headline(runs: Sequence[Run], models: Sequence[MeasuredModel]) -> Headline:
    """The main figures over all prompts of each evaluation."""
    cells: dict[tuple[Subject, Column], Figure] = {}
    for run in of_stage(runs, "eval"):
        for figure in read_figures(run):
            info = evals.figure_info(_evaluation_of(run), figure.name)
            if figure.group == OVERALL and info.headline:
                # `mark_variants` left one run for each column and subject: nothing is overwritten here.
                cells[run.subject, _column_of(run, info)] = figure
    columns = tuple(sorted({column for _, column in cells}, key=_column_order))
    rows = []
    for model in models:
        rows.append((model, tuple(cells.get((model.subject, column)) for column in columns)))
    return Headline(columns, tuple(rows))


def _column_order(column: Column) -> tuple[str, bool, int, str, str]:
    # An answer's form comes before what a judge says of it.
    position = evals.reports_of(column.evaluation).index(column.info)
    return column.evaluation, column.info.judged, position, column.judge, column.source


def details(runs: Sequence[Run], models: Sequence[MeasuredModel]) -> list[Details]:
    """Each evaluation's figures by each judge on each source, overall and by group."""
    # Figures by another judge or on other prompts go into a table of their own: side by side they would be compared.
    runs_by_table: dict[tuple[str, str, str], list[Run]] = {}
    for run in of_stage(runs, "eval"):
        key = (run.stage, _judge_title_of(run), source_of(run))
        runs_by_table.setdefault(key, []).append(run)
    tables = []
    for (stage, judge, source), members in sorted(runs_by_table.items()):
        table = _details_of(members, models, stage.removeprefix("eval/"), judge, source)
        # A run may hold no figures, as one of an earlier version.
        if table.rows:
            tables.append(table)
    return tables


def _details_of(
    runs: Sequence[Run], models: Sequence[MeasuredModel], evaluation: str, judge: str, source: str
) -> Details:
    """The table of these runs, with the models that they measured."""
    cells: dict[tuple[Subject, str, str], Figure] = {}
    row_keys: dict[tuple[str, str], None] = {}
    subjects = set()
    for run in runs:
        for figure in read_figures(run):
            cells[run.subject, figure.name, figure.group] = figure
            row_keys[figure.name, figure.group] = None
            subjects.add(run.subject)
    measured = tuple(model for model in models if model.subject in subjects)
    rows = []
    for name, group in row_keys:
        figures = tuple(cells.get((model.subject, name, group)) for model in measured)
        rows.append(FigureRow(evals.figure_info(evaluation, name), group, figures))
    return Details(evaluation, judge, source, measured, tuple(rows))


def paper_rows() -> list[tuple[str, dict[str, float]]]:
    """The paper's models by name, with their shares by figure: its single points, and TARS itself at λ = 0.5."""
    rows = []
    for name, points in TARS_FIGURE_3.series.items():
        for point in points:
            shares = {"dsr": point.dsr, "compliance_safe": point.compliance}
            if point.harmful_ratio is None:
                rows.append((name, shares))
            # The other points of a series are on the trade-off plot. One row each would hide our own rows.
            elif name.startswith("TARS") and point.harmful_ratio == PAPER_RATIO:
                rows.append((f"{name}, λ = {PAPER_RATIO}", shares))
    return rows


def read_figures(run: Run) -> Iterator[Figure]:
    """The figures in a run's `metrics.json`; rows of another form are left out."""
    rows = run.metrics.get("figures")
    if not isinstance(rows, list):
        return
    # The metrics may be of another version. What the page does not know is passed over.
    for row in rows:
        if isinstance(row, dict) and "name" in row:
            yield _figure_of(row)


def _figure_of(row: Record) -> Figure:
    return Figure(
        name=str(row["name"]),
        value=number(row.get("value")),
        n=_count_of(row, "n"),
        low=number(row.get("low")),
        high=number(row.get("high")),
        unscored=_count_of(row, "unscored"),
        group=str(row.get("group") or OVERALL),
        # These two came later than the others: runs of earlier versions have neither.
        failed=_count_of(row, "failed"),
        filtered=_count_of(row, "filtered"),
    )


def _count_of(row: Record, key: str) -> int:
    return int(number(row.get(key)) or 0)


def _column_of(run: Run, info: FigureInfo) -> Column:
    """The headline's column for a figure of a run."""
    judge = ""
    # A figure that needs no judge shares one column over runs by several judges.
    if info.judged:
        judge = judge_title(str(run.metrics.get("judge") or "judge not recorded"))
    return Column(_evaluation_of(run), info.name, judge, source_of(run))


def _evaluation_of(run: Run) -> str:
    return run.stage.removeprefix("eval/")


def _judge_title_of(run: Run) -> str:
    return judge_title(str(run.metrics.get("judge") or ""))


def source_of(run: Run) -> str:
    """The data source of an evaluation's prompts; empty where that is its own."""
    source = str(run.metrics.get("source") or "")
    if source.startswith(_evaluation_of(run)):
        return ""
    return source
