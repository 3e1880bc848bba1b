"""How far a judge agrees with people: on answers that they have labelled, and beside how far they agree themselves.

A judge's verdict counts as positive from a score of 0.5 on, as everywhere. Answers that people gave another label than
the two that are told apart, such as XSTest's partial refusals, are no part of the figures: how the judge takes them is
counted beside. What the judge cannot score is left out and counted.

Intervals are percentiles of a bootstrap over the answers; Wilson's for accuracy, precision and recall.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safereason.data.fetch import File
from safereason.data.sources.base import Row, read_rows, rows
from safereason.data.sources.xstest_response import FILES
from safereason.errors import InputError
from safereason.evals.base import THRESHOLD
from safereason.evals.metrics import CONFIDENCE, OVERALL, Figure, proportion
from safereason.judges.base import Exchange, Judge, Verdict

XSTEST = "xstest-"
"""Before a model's name: XSTest's completions of it, with their human labels."""
ANNOTATORS = ("annotation_1", "annotation_2")
"""XSTest's columns with one person's label each."""
FIGURES = ("f1", "precision", "recall", "accuracy", "kappa")
RESAMPLES = 2000
UNLABELLED = "none"

Counts = NDArray[np.float64]
"""Answers by what people say (negative, positive) and by what the judge says: [..., 2, 2]."""


@dataclass(frozen=True)
class Columns:
    """Where a file has what, and which labels are told apart; by default as XSTest has it, for refusal."""

    prompt: str = "prompt"
    answer: str = "completion"
    label: str = "final_label"
    """What people settled on."""
    positive: tuple[str, ...] = ("2_full_refusal",)
    """Labels of answers that hold what the judge measures."""
    negative: tuple[str, ...] = ("1_full_compliance",)
    people: tuple[str, ...] = ()
    """Two columns with one person's label each, where there are."""


@dataclass(frozen=True)
class Labelled:
    """One answer with what people say of it."""

    exchange: Exchange
    label: str
    people: tuple[str, ...] = ()


@dataclass(frozen=True)
class Agreement:
    """A judge and people on the answers of one file."""

    figures: tuple[Figure, ...]
    """`f1` of the positive label, `precision`, `recall`, `accuracy`, and Cohen's `kappa`."""
    confusion: dict[str, dict[str, int]]
    """By people's label, how many the judge takes for positive, negative and leaves unscored."""
    people: Figure | None
    """Cohen's kappa of two people over all labels; None where there are not two."""
    apart: dict[str, dict[str, int]] = field(default_factory=dict)
    """As `confusion`, of the labels that are no part of the figures."""


def read(target: str, columns: Columns) -> list[Labelled]:
    """The labelled answers of a file, or of XSTest's completions of a model: `xstest-gpt4`.

    Raises:
        InputError: There is no such file, it lacks a column, or none of its labels is told apart.
    """
    if not target.startswith(XSTEST):
        found = [_labelled(row, columns) for row in read_rows(_file(target), mend="name its columns, or mend the file")]
    elif columns != Columns():
        raise InputError(f"{target}: its columns and labels are known; leave the options that name some out")
    else:
        found = [_labelled(row, replace(columns, people=ANNOTATORS)) for row in rows(_published(target))]
    if not any(one.label in (*columns.positive, *columns.negative) for one in found):
        there = ", ".join(sorted({one.label for one in found})[:6])
        raise InputError(
            f"{target}: `{columns.label}` is never {columns.positive[0]} or {columns.negative[0]}, but "
            f"{there}; name its values with --positive and --negative"
        )
    return found


def unseen(target: str, labelled: Sequence[Labelled], judge: Judge, columns: Columns) -> list[Labelled]:
    """The answers of a file without those that the judge was trained on: figures on them would say nothing.

    Raises:
        InputError: Nothing is left to measure it on.
    """
    was_trained_on: Callable[[Exchange], bool] | None = getattr(judge, "was_trained_on", None)
    if was_trained_on is None:
        return list(labelled)
    kept = [one for one in labelled if not was_trained_on(one.exchange)]
    if len(kept) < len(labelled) and not any(one.label in (*columns.positive, *columns.negative) for one in kept):
        raise InputError(
            f"{target}: judge {judge.name} was trained on these answers, so that figures on them say "
            "nothing; name another file (docs/how-to/trust-a-judge.md has held-out figures)"
        )
    return kept


def _published(target: str) -> File:
    model = target.removeprefix(XSTEST)
    if model not in FILES:
        raise InputError(f"{target}: no such completions; there are {', '.join(XSTEST + name for name in FILES)}")
    return FILES[model]


def _file(target: str) -> Path:
    if not Path(target).is_file():
        raise InputError(f"{target}: no such file; check the path, or name {XSTEST}{next(iter(FILES))} or its like")
    return Path(target)


def _labelled(row: Row, columns: Columns) -> Labelled:
    exchange = Exchange(row.text(columns.prompt) or "", row.text(columns.answer) or "")
    label, *people = (_label(row, column) for column in (columns.label, *columns.people))
    return Labelled(exchange, label, tuple(people))


def _label(row: Row, column: str) -> str:
    """As written; JSON's true and false in lower case."""
    value = row.get(column)
    if isinstance(value, bool):
        return str(value).lower()
    return UNLABELLED if value in (None, "") else str(value)


def agreement(
    labelled: Sequence[Labelled], verdicts: Sequence[Verdict], columns: Columns, group: str = OVERALL, seed: int = 0
) -> Agreement:
    """Holds verdicts against labels.

    Args:
        labelled: The answers.
        verdicts: One an answer, in order.
        columns: Which labels are told apart.
        group: What the figures are said to be of.
        seed: Of the bootstrap.
    """
    table: dict[str, dict[str, int]] = {}
    for one, verdict in zip(labelled, verdicts, strict=True):
        counts = table.setdefault(one.label, dict.fromkeys(("positive", "negative", "unscored"), 0))
        counts[_found(verdict)] += 1
    told = {label: counts for label, counts in table.items() if label in (*columns.positive, *columns.negative)}
    apart = {label: counts for label, counts in sorted(table.items()) if label not in told}
    return Agreement(tuple(_figures(told, columns, group, seed)), told, _people(labelled, group, seed), apart)


def _found(verdict: Verdict) -> str:
    if verdict.score is None:
        return "unscored"
    return "positive" if verdict.score >= THRESHOLD else "negative"


def _figures(told: Mapping[str, Mapping[str, int]], columns: Columns, group: str, seed: int) -> list[Figure]:
    counts, unscored = np.zeros((2, 2)), np.zeros(2, dtype=int)
    for label, found in told.items():
        positive = int(label in columns.positive)
        counts[positive] += (found["negative"], found["positive"])
        unscored[positive] += found["unscored"]
    (right_no, alarms), (misses, hits) = counts.astype(int).tolist()
    left_out = int(unscored.sum())
    return [
        _bootstrapped("f1", counts, group, left_out, seed),
        proportion("precision", hits, hits + alarms, group=group),
        proportion("recall", hits, hits + misses, int(unscored[1]), group),
        proportion("accuracy", hits + right_no, int(counts.sum()), left_out, group),
        _bootstrapped("kappa", counts, group, left_out, seed),
    ]


def _people(labelled: Sequence[Labelled], group: str, seed: int) -> Figure | None:
    pairs = [one.people for one in labelled if len(one.people) == 2 and UNLABELLED not in one.people]
    if not pairs:
        return None
    names = sorted({label for pair in pairs for label in pair})
    counts = np.zeros((len(names), len(names)))
    for a, b in pairs:
        counts[names.index(a), names.index(b)] += 1
    return _bootstrapped("kappa_people", counts, group, len(labelled) - len(pairs), seed)


def _bootstrapped(name: str, counts: Counts, group: str, unscored: int, seed: int) -> Figure:
    n = int(counts.sum())
    if not n:
        return Figure(name, None, 0, None, None, unscored, group)
    drawn = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=RESAMPLES)
    values = (f1 if name == "f1" else kappa)(np.concatenate([counts[None], drawn.reshape(-1, *counts.shape)]))
    defined = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]):
        return Figure(name, None, n, None, None, unscored, group)
    if not len(defined) or np.ptp(defined) == 0:
        return Figure(name, float(values[0]), n, None, None, unscored, group)
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Figure(name, float(values[0]), n, float(low), float(high), unscored, group)


def f1(counts: Counts) -> NDArray[np.float64]:
    """F1 of the positive label from counts [..., 2, 2]; NaN where nobody says positive."""
    hits, wrong = counts[..., 1, 1], counts[..., 0, 1] + counts[..., 1, 0]
    return _ratio(2 * hits, 2 * hits + wrong)


def kappa(counts: Counts) -> NDArray[np.float64]:
    """Cohen's kappa from counts [..., labels, labels]; NaN where chance alone would agree on all."""
    n = counts.sum(axis=(-1, -2))
    agree = np.trace(counts, axis1=-2, axis2=-1) / n
    chance = (counts.sum(axis=-1) * counts.sum(axis=-2)).sum(axis=-1) / n**2
    return _ratio(agree - chance, 1 - chance)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 1e-12)
