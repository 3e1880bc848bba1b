"""Puts runs of one evaluation side by side: every figure, what differs from the first run, and the paper's own.

It reads finished run directories and writes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safereason import evals
from safereason.errors import BarNotMet, InputError
from safereason.evals import compare, guard_predictions, paper
from safereason.evals.compare import Difference
from safereason.evals.guard_predictions import Prediction
from safereason.evals.metrics import Figure
from safereason.report.beside import of_paper
from safereason.report.read import Run, read_run
from safereason.stages import eval_judge

GUARD = "guard"
Items = compare.Asked | list[Prediction] | None
"""What a run's figures are made of; None for an evaluation whose figures are not made of single prompts."""


@dataclass(frozen=True)
class Row:
    """One figure of one run."""

    run: str
    """Its letter."""
    figure: Figure
    difference: Difference | None
    """To the first run; None for that one, and where nothing of it is shared."""
    paper: paper.PaperFigure | None
    covered: bool | None
    """Whether our interval, widened by what the paper's value may be out, holds it."""


@dataclass(frozen=True)
class Comparison:
    """Runs of one evaluation, side by side."""

    evaluation: str
    runs: dict[str, Run]
    """By letter."""
    rows: tuple[Row, ...]
    """Figure by figure, and there run by run."""
    notes: tuple[str, ...]
    """What a reader has to know before the figures are held against each other."""


def runs(paths: Sequence[Path], resamples: int = compare.RESAMPLES, seed: int = 0) -> Comparison:
    """Compares the runs with the first of them.

    Args:
        paths: Finished runs of one evaluation.
        resamples: Bootstrap resamples behind each difference.
        seed: Of the resamples.

    Raises:
        InputError: A path is no finished run of an evaluation, the evaluations differ, or no prompt is shared.
    """
    read = {_letter(place): read_run(path) for place, path in enumerate(paths)}
    name = _evaluation(list(read.values()))
    items = {letter: _items(name, run) for letter, run in read.items()}
    figures = {letter: _figures(run) for letter, run in read.items()}
    first = next(iter(read))
    differences = {letter: _differences(items[first], items[letter], read[letter], resamples, seed) for letter in read}
    rows = tuple(
        _row(letter, read[letter], table[key], differences[letter].get(key) if letter != first else None)
        for key in dict.fromkeys(key for table in figures.values() for key in table)
        for letter, table in figures.items()
        if key in table
    )
    return Comparison(name, read, rows, tuple(_notes(name, read, rows)))


def check_not_worse(found: Comparison, label: str) -> None:
    """Refuses runs that are significantly worse than the first at a figure, named as `Figure.label` is.

    Raises:
        InputError: There is no such figure, or more of it is neither better nor worse.
        BarNotMet: A run is worse, or could not be compared.
    """
    rows = [row for row in found.rows if row.figure.label == label]
    if not rows:
        known = ", ".join(dict.fromkeys(row.figure.name for row in found.rows))
        raise InputError(f"--fail-if-worse {label}: eval {found.evaluation} has no such figure; it has {known}")
    if rows[0].figure.name in compare.NEITHER_IS_BETTER:
        raise InputError(f"--fail-if-worse {label}: more of it is neither better nor worse; name another figure")
    first = next(iter(found.runs))
    missing = [letter for letter in found.runs if letter not in {row.run for row in rows}]
    worse = (_worse(row) for row in rows if row.run != first)
    failed = [*(f"{letter} has no {label}" for letter in missing), *filter(None, worse)]
    if failed:
        raise BarNotMet("; ".join(failed))


def _worse(row: Row) -> str | None:
    difference = row.difference
    if difference is None:
        return f"{row.figure.label} of {row.run} could not be compared"
    if not difference.is_worse(row.figure.name):
        return None
    return (
        f"{row.figure.label} of {row.run} is worse by {abs(difference.value):.4f}, p = {difference.p:.4f} "
        f"(n = {difference.n}, {difference.unscored} unscored)"
    )


def _letter(place: int) -> str:
    """`A`, `B`, …, `Z`, `A2`, … ."""
    return chr(ord("A") + place % 26) + (str(place // 26 + 1) if place >= 26 else "")


def _evaluation(read: Sequence[Run]) -> str:
    for run in read:
        if not run.stage.startswith("eval/"):
            raise InputError(f"{run.path}: a run of {run.stage}, not of an evaluation; name runs under eval/")
    for run in read[1:]:
        if run.stage != read[0].stage:
            raise InputError(
                f"{run.path}: a run of {run.stage}, where the first is one of {read[0].stage}; "
                "compare runs of one evaluation"
            )
    return read[0].stage.removeprefix("eval/")


def _figures(run: Run) -> dict[compare.Key, Figure]:
    rows = run.metrics.get("figures")
    found = [Figure(**row) for row in rows] if isinstance(rows, list) else []
    if not found:
        raise InputError(f"{run.path}: has no figures in metrics.json; make it anew")
    return {(figure.name, figure.group): figure for figure in found}


def _items(name: str, run: Run) -> Items:
    if name == GUARD:
        lines = enumerate(run.records("predictions"), start=1)
        found = [guard_predictions.from_record(line, f"{run.path}: prediction {number}") for number, line in lines]
        return [one for one in found if not one.failed]
    if name not in evals.EVALS:
        return None
    try:
        evaluation = evals.EVALS[name]
        outcomes = eval_judge.outcomes([str(c["id"]) for c in run.records("completions")], run.path, evaluation)
        return compare.asked(evaluation, outcomes, list(_figures(run).values()))
    except InputError as error:
        raise InputError(f"{run.path}: {error}") from error


def _differences(first: Items, other: Items, run: Run, resamples: int, seed: int) -> dict[compare.Key, Difference]:
    try:
        if isinstance(first, compare.Asked) and isinstance(other, compare.Asked):
            return compare.of_asked(first, other, resamples, seed)
        if isinstance(first, list) and isinstance(other, list):
            return compare.of_guards(first, other, resamples, seed)
    except InputError as error:
        raise InputError(f"{run.path}: {error}") from error
    return {}


def _row(letter: str, run: Run, figure: Figure, difference: Difference | None) -> Row:
    theirs = of_paper(run, figure)
    return Row(letter, figure, difference, theirs, paper.covered(figure, theirs) if theirs else None)


def _notes(name: str, read: dict[str, Run], rows: Sequence[Row]) -> list[str]:
    judges = {letter: run.metrics.get("judge") for letter, run in read.items()}
    notes = []
    if len(set(judges.values())) > 1:
        notes.append(f"judged by different judges: {', '.join(f'{k} by {v}' for k, v in judges.items())}")
    if len(read) > 1 and not any(row.difference for row in rows):
        notes.append(f"eval {name}: no figure is made of single prompts, so that no difference has an interval")
    if any(row.paper for row in rows):
        for letter, run in read.items():
            if departs := paper.departures(run.metrics):
                notes.append(f"{letter} was measured otherwise than the paper's models: {'; '.join(departs)}")
    return notes


def document(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON has it."""
    return {
        "eval": found.evaluation,
        "runs": [
            {
                "run": letter,
                "path": str(run.path),
                "model": run.model,
                "recipe": run.recipe,
                "judge": run.metrics.get("judge"),
            }
            for letter, run in found.runs.items()
        ],
        "notes": list(found.notes),
        "rows": [flat(row) for row in found.rows],
    }


def flat(row: Row) -> dict[str, Any]:
    """One row, as a table has it."""
    figure, difference, theirs = row.figure, row.difference, row.paper
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
        "paper": theirs and theirs.value,
        "paper_tolerance": theirs and theirs.tolerance,
        "paper_model": theirs and theirs.model,
        "paper_source": theirs and theirs.source,
        "covered": row.covered,
    }
