"""The page's tables of figures: the headline by model, every figure of an evaluation, and the papers' own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from safereason.evals.metrics import OVERALL, Figure
from safereason.evals.paper import TARS_FIGURE_3
from safereason.report.read import Model, Run, number, of_stage

HEADLINE = {
    "well_formed": "Well-formed reasoning",
    "dsr": "Defence success (DSR)",
    "compliance_safe": "Compliance",
    "compliance": "Compliance",
    "f1": "F1 of unsafe",
}
"""Figures of the headline, in the page's words."""
TITLES = {
    **HEADLINE,
    "closed": "Closed reasoning",
    "truncated": "Cut off at the length limit",
    "refusal_unsafe": "Refusal of unsafe prompts",
    "over_refusal": "Refusal of safe prompts",
    "dsr_closed": "DSR where the reasoning was closed",
    "dsr_open": "DSR where it was not",
    "reasoning_tokens": "Length of the reasoning",
    "answer_tokens": "Length of the answer",
    "margin": "Margin, C = 1.0",
    "margin_c0.1": "Margin, C = 0.1",
    "accuracy": "Prompts on the right side, C = 1.0",
    "accuracy_c0.1": "Prompts on the right side, C = 0.1",
    "f1_parsed": "F1, rows without a verdict left out",
    "f1_pooled": "F1 of all rows together",
    "f1_always_unsafe": "F1 of calling everything unsafe",
    "f1_always_safe": "F1 of calling everything safe",
    "auroc": "AUROC of the score",
    "unparsed": "No verdict",
    "says_unsafe": "Called unsafe, of the verdicts there are",
}
UNJUDGED = ("well_formed", "closed", "truncated", "f1")
"""Figures that need no judge."""
UNITS = {"reasoning_tokens": "tokens", "answer_tokens": "tokens", "margin": "", "margin_c0.1": ""}
"""Units of the figures that are no shares."""
EVALUATIONS = {
    "harmbench": "HarmBench",
    "strongreject": "StrongREJECT",
    "jailbreakbench": "JailbreakBench",
    "sorrybench": "SORRY-Bench",
    "simplesafetytests": "SimpleSafetyTests",
    "xstest": "XSTest",
    "orbench": "OR-Bench",
    "wildchat": "WildChat",
    "adaptivity": "Adaptivity",
    "separation": "Separation",
    "guard": "Guard",
}
"""Evaluations, as their publishers write them."""
LOCAL_JUDGES = {
    "refusal": "local refusal judge, weak",
    "refusal-learned": "local learned refusal judge, weak",
    "compliance": "local compliance judge, weak",
}
"""Judges that read wording only."""
PAPER_RATIO = 0.5
"""λ of the paper's main models."""


@dataclass(frozen=True)
class Column:
    """One figure of one evaluation."""

    evaluation: str
    name: str
    judge: str
    """Who scored it; empty for what needs no judge."""
    source: str = ""
    """Where its prompts came from, where that is not the evaluation's own data."""

    @property
    def title(self) -> str:
        """The figure in words."""
        return figure_title(self.name)

    @property
    def measured_by(self) -> str:
        """Source and judge, as far as there is something to say of them."""
        return ", ".join(filter(None, (self.source and f"on {self.source}", self.judge and f"by {self.judge}")))


@dataclass(frozen=True)
class Headline:
    """Models down, figures across; None where a model was not measured."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Model, tuple[Figure | None, ...]], ...]


@dataclass(frozen=True)
class Titled:
    """One figure of one group: what each model has for it."""

    name: str
    group: str
    figures: tuple[Figure | None, ...]

    @property
    def title(self) -> str:
        """The figure in words."""
        return figure_title(self.name)


@dataclass(frozen=True)
class Details:
    """Every figure of one evaluation by one judge: figures and groups down, models across."""

    evaluation: str
    judge: str
    """Empty for what needs none."""
    source: str
    """Where its prompts came from, where that is not the evaluation's own data."""
    models: tuple[Model, ...]
    rows: tuple[Titled, ...]


def figure_title(name: str) -> str:
    """A figure in words."""
    return TITLES.get(name, name.replace("_", " "))


def evaluation_title(name: str) -> str:
    """An evaluation as its publisher writes it."""
    return EVALUATIONS.get(name, name)


def judge_title(name: str) -> str:
    """A judge as the page names it; one that reads wording only is called weak."""
    return LOCAL_JUDGES.get(name, name)


def unit(name: str) -> str | None:
    """The unit of a figure that is no share; None for a share."""
    return UNITS.get(name)


def bare(value: float, name: str) -> str:
    """A figure's value in its unit, without it: a share in percent."""
    measure = unit(name)
    return f"{100 * value:.1f}" if measure is None else f"{value:.1f}" if measure else f"{value:.3f}"


def quantity(value: float, name: str) -> str:
    """A figure's value with its unit, as `98.9 %` or `312.4 tokens`."""
    measure = unit(name)
    return f"{bare(value, name)}\u2009%" if measure is None else f"{bare(value, name)} {measure}".strip()


def _judge_of(run: Run) -> str:
    return judge_title(str(run.metrics.get("judge") or ""))


def headline(runs: Sequence[Run], models: Sequence[Model]) -> Headline:
    """The main figures over all prompts of each evaluation."""
    cells = {
        (run.subject, _column(run, f)): f for run, f in _figures(runs) if f.group == OVERALL and f.name in HEADLINE
    }
    order = list(HEADLINE)
    columns = tuple(
        sorted({column for _, column in cells}, key=lambda c: (c.evaluation, order.index(c.name), c.judge, c.source))
    )
    return Headline(columns, tuple((model, tuple(cells.get((model.subject, c)) for c in columns)) for model in models))


def details(runs: Sequence[Run], models: Sequence[Model]) -> list[Details]:
    """Each evaluation's figures by each judge on each source, overall and by group."""
    found = []
    kinds = {(run.stage, _judge_of(run), source_of(run)) for run in of_stage(runs, "eval")}
    for stage, judge, source in sorted(kinds):
        cells = {
            (run.subject, f.name, f.group): f
            for run, f in _figures(runs)
            if (run.stage, _judge_of(run), source_of(run)) == (stage, judge, source)
        }
        subjects = {subject for subject, _, _ in cells}
        measured = tuple(model for model in models if model.subject in subjects)
        rows = tuple(
            Titled(name, group, tuple(cells.get((model.subject, name, group)) for model in measured))
            for name, group in dict.fromkeys((name, group) for _, name, group in cells)
        )
        if rows:
            found.append(Details(stage.removeprefix("eval/"), judge, source, measured, rows))
    return found


def paper_rows() -> list[tuple[str, dict[str, float]]]:
    """The paper's models by name, with their shares by figure: its single points, and TARS itself at λ = 0.5."""
    rows = []
    for name, points in TARS_FIGURE_3.series.items():
        for point in points:
            shares = {"dsr": point.dsr, "compliance_safe": point.compliance}
            if point.harmful_ratio is None:
                rows.append((name, shares))
            elif name.startswith("TARS") and point.harmful_ratio == PAPER_RATIO:
                rows.append((f"{name}, λ = {PAPER_RATIO}", shares))
    return rows


def figures_of(run: Run) -> Iterator[Figure]:
    """The figures of an evaluation's run."""
    figures = run.metrics.get("figures")
    for row in figures if isinstance(figures, list) else []:
        if isinstance(row, dict) and "name" in row:
            yield _figure(row)


def _figures(runs: Sequence[Run]) -> Iterator[tuple[Run, Figure]]:
    return ((run, figure) for run in of_stage(runs, "eval") for figure in figures_of(run))


def _figure(row: dict[str, Any]) -> Figure:
    return Figure(
        name=str(row["name"]),
        value=number(row.get("value")),
        n=int(number(row.get("n")) or 0),
        low=number(row.get("low")),
        high=number(row.get("high")),
        unscored=int(number(row.get("unscored")) or 0),
        group=str(row.get("group") or OVERALL),
        failed=int(number(row.get("failed")) or 0),
        filtered=int(number(row.get("filtered")) or 0),
    )


def _column(run: Run, figure: Figure) -> Column:
    judge = "" if figure.name in UNJUDGED else judge_title(str(run.metrics.get("judge") or "judge not recorded"))
    return Column(run.stage.removeprefix("eval/"), figure.name, judge, source_of(run))


def source_of(run: Run) -> str:
    """Where an evaluation's prompts came from; empty where that is its own data."""
    source = str(run.metrics.get("source") or "")
    return "" if source.startswith(run.stage.removeprefix("eval/")) else source
