"""Comparison of runs of one evaluation: every figure, its difference from the first run, and the paper's own figure.

It reads finished run directories and writes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safereason import evals
from safereason.errors import BarNotMet, InputError, command
from safereason.evals import Eval, compare, guard_predictions, judging, paper
from safereason.evals.compare import Difference
from safereason.evals.guard_predictions import Prediction
from safereason.evals.metrics import Better, Figure, FigureKey, recorded_figures
from safereason.report.paper_comparison import matching_paper_figure
from safereason.report.read import Run, read_run
from safereason.runs.records import Record

GUARD_EVAL = "guard"
Items = compare.EvalScores | list[Prediction] | None
"""The single prompts behind a run's figures; None for an evaluation whose figures are not made of single prompts."""


@dataclass(frozen=True)
class ComparisonRow:
    """One figure of one run."""

    run: str
    """Letter of the run."""
    figure: Figure
    difference: Difference | None
    """Difference from the first run; None for the first run itself, and where the two share no prompt."""
    paper: paper.PaperFigure | None
    covered: bool | None
    """Whether our interval, widened by the tolerance of the paper's value, contains that value."""


@dataclass(frozen=True)
class Comparison:
    """Runs of one evaluation, side by side."""

    evaluation: str
    runs: dict[str, Run]
    """Runs by letter."""
    rows: tuple[ComparisonRow, ...]
    """Rows by figure, and within a figure by run."""
    notes: tuple[str, ...]
    """Warnings about what makes the runs hard to compare."""


def runs_to_compare(paths: Sequence[Path], resamples: int = compare.RESAMPLES, seed: int = 0) -> Comparison:
    """Compares the runs with the first of them.

    Args:
        paths: Finished runs of one evaluation.
        resamples: Bootstrap resamples behind each difference.
        seed: Seed of the resamples.

    Raises:
        InputError: A path is no finished run of an evaluation, the evaluations differ, or no prompt is shared.
    """
    runs = {_letter(position): read_run(path) for position, path in enumerate(paths)}
    evaluation = _common_evaluation(list(runs.values()))
    # Items of every run are read before any figures, so that the first damaged run is the one that is named.
    items = {}
    for letter, run in runs.items():
        items[letter] = _items_of(evaluation, run)
    figures = {}
    for letter, run in runs.items():
        figures[letter] = _figures_by_key(run)
    first = next(iter(runs))
    differences: dict[str, dict[FigureKey, Difference]] = {}
    for letter, run in runs.items():
        # The first run is compared with itself too, which refuses a first run without any prompt.
        differences[letter] = _differences(items[first], items[letter], run, resamples, seed)
    differences[first] = {}
    rows = []
    for key in _keys_in_order(figures):
        for letter, run in runs.items():
            figure = figures[letter].get(key)
            if figure is not None:
                rows.append(_comparison_row(letter, run, figure, differences[letter].get(key)))
    return Comparison(evaluation, runs, tuple(rows), tuple(_comparison_notes(evaluation, runs, rows)))


def _keys_in_order(figures: dict[str, dict[FigureKey, Figure]]) -> list[FigureKey]:
    """Every figure's key once, in the order of the runs that have it."""
    keys: dict[FigureKey, None] = {}
    for run_figures in figures.values():
        keys.update(dict.fromkeys(run_figures))
    return list(keys)


def check_not_worse(comparison: Comparison, label: str) -> None:
    """Refuses runs that are significantly worse than the first at a figure, named as `Figure.label` is.

    Raises:
        InputError: There is no such figure, or more of it is neither better nor worse.
        BarNotMet: A run is worse, or could not be compared.
    """
    rows = [row for row in comparison.rows if row.figure.label == label]
    if not rows:
        # Names without groups: a figure may have dozens of those.
        known = ", ".join(dict.fromkeys(row.figure.name for row in comparison.rows))
        raise InputError(f"--fail-if-worse {label}: eval {comparison.evaluation} has no such figure; it has {known}")
    better = evals.figure_info(comparison.evaluation, rows[0].figure.name).better
    if better == "neither":
        raise InputError(f"--fail-if-worse {label}: more of it is neither better nor worse; name another figure")
    first = next(iter(comparison.runs))
    compared = [row.run for row in rows]
    problems = []
    # A run without the figure must not pass: a missing figure may hide a worse one.
    for letter in comparison.runs:
        if letter not in compared:
            problems.append(f"{letter} has no {label}")
    for row in rows:
        problem = _worse_than_first(row, better)
        if row.run != first and problem is not None:
            problems.append(problem)
    if problems:
        raise BarNotMet("; ".join(problems))


def _worse_than_first(row: ComparisonRow, better: Better) -> str | None:
    """Words for how much worse a row is than the first run; None where it is not significantly worse."""
    difference = row.difference
    if difference is None:
        return f"{row.figure.label} of {row.run} could not be compared"
    if not difference.is_worse(better):
        return None
    return (
        f"{row.figure.label} of {row.run} is worse by {abs(difference.value):.4f}, p = {difference.p:.4f} "
        f"(n = {difference.n}, {difference.unscored} unscored)"
    )


def _letter(position: int) -> str:
    """A run's name in a comparison: `A`, `B`, …, `Z`, `A2`, … ."""
    # Paths are too long for a table.
    letter = chr(ord("A") + position % 26)
    if position < 26:
        return letter
    return f"{letter}{position // 26 + 1}"


def _common_evaluation(runs: Sequence[Run]) -> str:
    # What is no evaluation is named first, since its stage differs from the others too.
    for run in runs:
        if not run.stage.startswith("eval/"):
            raise InputError(f"{run.path}: a run of {run.stage}, not of an evaluation; name runs under eval/")
    for run in runs[1:]:
        if run.stage != runs[0].stage:
            raise InputError(
                f"{run.path}: a run of {run.stage}, where the first is one of {runs[0].stage}; "
                "compare runs of one evaluation"
            )
    return runs[0].stage.removeprefix("eval/")


def _figures_by_key(run: Run) -> dict[FigureKey, Figure]:
    figures = {(figure.name, figure.group): figure for figure in recorded_figures(run.metrics, run.path)}
    if not figures:
        raise InputError(f"{run.path}: has no figures in metrics.json; make it anew")
    return figures


def _items_of(evaluation_name: str, run: Run) -> Items:
    """The single prompts behind a run's figures."""
    if evaluation_name == GUARD_EVAL:
        return _guard_predictions(run)
    evaluation = evals.EVALS.installed(evaluation_name)
    if evaluation is None:
        return None
    figures = _figures_by_key(run)
    _check_recorded(evaluation, run)
    try:
        ids = [str(completion["id"]) for completion in run.records("completions")]
        outcomes = judging.read_outcomes(ids, run.path, evaluation)
        return compare.collect_scores(evaluation, outcomes, list(figures.values()), run.metrics.get("measure"))
    except InputError as error:
        raise InputError(f"{run.path}: {error}") from error


def _check_recorded(evaluation: Eval, run: Run) -> None:
    """Refuses a run of an earlier version, whose metrics do not say how its figures are made of single prompts."""
    is_recorded = all("aggregation" in row for row in run.metrics["figures"])
    if evaluation.judge is None:
        remedy = "make it anew"
    else:
        is_recorded = is_recorded and run.metrics.get("measure") in evaluation.measures
        remedy = f"{command('eval', 'score', run.path, '--judge', run.metrics.get('judge'))} judges its answers again"
    if not is_recorded:
        raise InputError(
            f"{run.path}: an earlier version wrote its metrics.json, without the judge's measure and how each figure "
            f"is made of single prompts; {remedy}"
        )


def _guard_predictions(run: Run) -> list[Prediction]:
    """The predictions of a guard's run; rows that failed have no verdict and are left out."""
    predictions = []
    for number, line in enumerate(run.records("predictions"), start=1):
        prediction = guard_predictions.from_record(line, f"{run.path}: prediction {number}")
        if not prediction.failed:
            # The texts make up most of the file, and a comparison counts labels.
            predictions.append(replace(prediction, reasoning="", text="", prompt="", response=None))
    return predictions


def _differences(first: Items, other: Items, run: Run, resamples: int, seed: int) -> dict[FigureKey, Difference]:
    try:
        if isinstance(first, compare.EvalScores) and isinstance(other, compare.EvalScores):
            return compare.of_evals(first, other, resamples, seed)
        if isinstance(first, list) and isinstance(other, list):
            return compare.of_guards(first, other, resamples, seed)
    except InputError as error:
        raise InputError(f"{run.path}: {error}") from error
    # These figures have no single prompts, so nothing can be paired.
    return {}


def _comparison_row(letter: str, run: Run, figure: Figure, difference: Difference | None) -> ComparisonRow:
    paper_figure = matching_paper_figure(run, figure)
    # The paper gives its values rounded, or read off a plot, so they have a tolerance.
    covered = None
    if paper_figure:
        covered = paper.covered(figure, paper_figure)
    return ComparisonRow(letter, figure, difference, paper_figure, covered)


def _comparison_notes(evaluation: str, runs: dict[str, Run], rows: Sequence[ComparisonRow]) -> list[str]:
    notes = []
    judges = set()
    judged_by = []
    for letter, run in runs.items():
        judge = str(run.metrics.get("judge"))
        judges.add(judge)
        judged_by.append(f"{letter} by {judge}")
    # A difference between judges would look like one between models.
    if len(judges) > 1:
        notes.append(f"judged by different judges: {', '.join(judged_by)}")
    if len(runs) > 1 and not any(row.difference for row in rows):
        notes.append(f"eval {evaluation}: no figure is made of single prompts, so that no difference has an interval")
    # Departures matter only beside a paper's figure.
    if any(row.paper for row in rows):
        for letter, run in runs.items():
            if departures := paper.departures(run.metrics):
                notes.append(f"{letter} was measured otherwise than the paper's models: {'; '.join(departures)}")
    return notes


def comparison_document(comparison: Comparison) -> Record:
    """JSON document of a comparison, as `--json` prints it."""
    runs = []
    for letter, run in comparison.runs.items():
        runs.append(
            {
                "run": letter,
                "path": str(run.path),
                "model": run.model,
                "recipe": run.recipe,
                "judge": run.metrics.get("judge"),
            }
        )
    return {
        "eval": comparison.evaluation,
        "runs": runs,
        "notes": list(comparison.notes),
        "rows": [flat(row) for row in comparison.rows],
    }


def flat(row: ComparisonRow) -> Record:
    """A row as a flat mapping, for tables and JSON. Parts that the row lacks are null."""
    figure = row.figure
    difference = row.difference
    paper_figure = row.paper
    return {
        "figure": figure.name,
        "group": figure.group,
        "run": row.run,
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "n": figure.n,
        "unscored": figure.unscored,
        "difference": difference and difference.value,
        "difference_low": difference and difference.low,
        "difference_high": difference and difference.high,
        "p": difference and difference.p,
        "shared": difference and difference.n,
        "shared_unscored": difference and difference.unscored,
        "paper": paper_figure and paper_figure.value,
        "paper_tolerance": paper_figure and paper_figure.tolerance,
        "paper_model": paper_figure and paper_figure.model,
        "paper_source": paper_figure and paper_figure.source,
        "covered": row.covered,
    }
