"""Agreement of a judge with people on answers that they labelled, and of the people with each other.

A judge's verdict counts as positive from a score of 0.5 on, as everywhere. Some labels are neither positive nor
negative, such as XSTest's partial refusals. They are no part of the figures: the judge's verdicts on such answers are
counted apart. Answers that the judge cannot score are left out and counted.

Intervals are percentiles of a bootstrap over the answers; Wilson's for accuracy, precision and recall.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safereason.data.fetch import File
from safereason.data.sources.base import SourceRow, published_rows, read_rows
from safereason.data.sources.xstest_response import FILES
from safereason.errors import InputError
from safereason.evals.bootstrap import bootstrap_figure, ratio_or_nan
from safereason.evals.metrics import OVERALL, Figure, FigureInfo, proportion
from safereason.judges.base import THRESHOLD, Exchange, Judge, TrainedJudge, Verdict

XSTEST_PREFIX = "xstest-"
"""Prefix of the names of XSTest's human-labelled completions; a model's name follows."""
ANNOTATORS = ("annotation_1", "annotation_2")
"""XSTest's columns with the labels of one person each."""
FIGURES = tuple(FigureInfo(name) for name in ("f1", "precision", "recall", "accuracy", "kappa"))
RESAMPLES = 2000
UNLABELLED = "none"

Counts = NDArray[np.float64]
"""Numbers of answers by people's label (negative, positive) and by the judge's: [..., 2, 2]."""
Statistic = Callable[[Counts], NDArray[np.float64]]
"""A function from counts [..., labels, labels] to one value for each table: [...]."""


@dataclass(frozen=True)
class LabelColumns:
    """Columns of a file, and its positive and negative labels; by default those of XSTest, for refusal."""

    prompt: str = "prompt"
    answer: str = "completion"
    label: str = "final_label"
    """The label that people settled on."""
    positive: tuple[str, ...] = ("2_full_refusal",)
    """Labels of answers that have the quantity that the judge measures."""
    negative: tuple[str, ...] = ("1_full_compliance",)
    people: tuple[str, ...] = ()
    """Two columns with one person's label each; empty where a file has none."""


@dataclass(frozen=True)
class Labelled:
    """One answer with the labels that people gave it."""

    exchange: Exchange
    label: str
    people: tuple[str, ...] = ()


@dataclass(frozen=True)
class Agreement:
    """The agreement of a judge with people on the answers of one file."""

    figures: tuple[Figure, ...]
    """`f1` of the positive label, `precision`, `recall`, `accuracy`, and Cohen's `kappa`."""
    confusion: dict[str, dict[str, int]]
    """By people's label, the number of answers that the judge calls positive, negative, and leaves unscored."""
    people: Figure | None
    """Cohen's kappa of two people over all labels; None where there are not two."""
    apart: dict[str, dict[str, int]] = field(default_factory=dict)
    """Counts as in `confusion`, for labels that are no part of the figures."""


def read(target: str, columns: LabelColumns) -> list[Labelled]:
    """The labelled answers of a file, or of XSTest's completions of a model: `xstest-gpt4`.

    Raises:
        InputError: There is no such file, it lacks a column, or it has neither positive nor negative labels.
    """
    if not target.startswith(XSTEST_PREFIX):
        source_rows = read_rows(_file_of_rows(target), advice="name its columns, or mend the file")
    elif columns != LabelColumns():
        raise InputError(f"{target}: its columns and labels are known; leave the options that name some out")
    else:
        columns = replace(columns, people=ANNOTATORS)
        source_rows = published_rows(_published_file(target))
    labelled = [_labelled_answer(row, columns) for row in source_rows]
    # Without a label that counts, all figures would be undefined, and the options are likely wrong.
    if not _has_counted_label(labelled, columns):
        labels = sorted({answer.label for answer in labelled})
        raise InputError(
            f"{target}: `{columns.label}` is never {columns.positive[0]} or {columns.negative[0]}, but "
            f"{', '.join(labels[:6])}; name its values with --positive and --negative"
        )
    return labelled


def unseen(target: str, labelled: Sequence[Labelled], judge: Judge, columns: LabelColumns) -> list[Labelled]:
    """The answers of a file without those that the judge was trained on: figures on them would say nothing.

    Raises:
        InputError: No answer with a positive or negative label is left.
    """
    # Only judges that were trained here know their training data.
    if not isinstance(judge, TrainedJudge):
        return list(labelled)
    kept = [answer for answer in labelled if not judge.was_trained_on(answer.exchange)]
    if len(kept) < len(labelled) and not _has_counted_label(kept, columns):
        raise InputError(
            f"{target}: judge {judge.name} was trained on these answers, so that figures on them say "
            "nothing; name another file (docs/how-to/trust-a-judge.md has held-out figures)"
        )
    return kept


def _counts(label: str, columns: LabelColumns) -> bool:
    """Whether answers with this label count in the figures."""
    return label in columns.positive or label in columns.negative


def _has_counted_label(labelled: Sequence[Labelled], columns: LabelColumns) -> bool:
    return any(_counts(answer.label, columns) for answer in labelled)


def _published_file(target: str) -> File:
    """XSTest's file of completions of a model."""
    model = target.removeprefix(XSTEST_PREFIX)
    if model not in FILES:
        names = ", ".join(f"{XSTEST_PREFIX}{name}" for name in FILES)
        raise InputError(f"{target}: no such completions; there are {names}")
    return FILES[model]


def _file_of_rows(target: str) -> Path:
    if not Path(target).is_file():
        raise InputError(
            f"{target}: no such file; check the path, or name {XSTEST_PREFIX}{next(iter(FILES))} or its like"
        )
    return Path(target)


def _labelled_answer(row: SourceRow, columns: LabelColumns) -> Labelled:
    exchange = Exchange(row.text(columns.prompt) or "", row.text(columns.answer) or "")
    people = tuple(_label_text(row, column) for column in columns.people)
    return Labelled(exchange, _label_text(row, columns.label), people)


def _label_text(row: SourceRow, column: str) -> str:
    """The label as it is in the file; JSON's true and false in lower case."""
    value = row.get(column)
    # A label is named on the command line. There a person types `true`, as JSON has it, and not Python's `True`.
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value == "":
        return UNLABELLED
    return str(value)


def agreement(
    labelled: Sequence[Labelled],
    verdicts: Sequence[Verdict],
    columns: LabelColumns,
    group: str = OVERALL,
    seed: int = 0,
) -> Agreement:
    """Agreement of verdicts with people's labels: figures with intervals, and the counts behind them.

    Args:
        labelled: The answers.
        verdicts: One for each answer, in order.
        columns: The positive and the negative labels.
        group: The figures' group.
        seed: Seed of the bootstrap.
    """
    table: dict[str, dict[str, int]] = {}
    for answer, verdict in zip(labelled, verdicts, strict=True):
        counts = table.setdefault(answer.label, {"positive": 0, "negative": 0, "unscored": 0})
        counts[_side_of(verdict)] += 1
    confusion = {}
    other_labels = {}
    for label, counts in table.items():
        if _counts(label, columns):
            confusion[label] = counts
        else:
            other_labels[label] = counts
    figures = _agreement_figures(confusion, columns, group, seed)
    people = _agreement_of_people(labelled, group, seed)
    return Agreement(tuple(figures), confusion, people, dict(sorted(other_labels.items())))


def _side_of(verdict: Verdict) -> str:
    """`positive`, `negative` or `unscored`."""
    if verdict.score is None:
        return "unscored"
    if verdict.score >= THRESHOLD:
        return "positive"
    return "negative"


def _agreement_figures(
    confusion: Mapping[str, Mapping[str, int]], columns: LabelColumns, group: str, seed: int
) -> list[Figure]:
    """The figures of the counts by label and side."""
    counts = np.zeros((2, 2))
    unscored = [0, 0]
    for label, sides in confusion.items():
        is_positive = int(label in columns.positive)
        counts[is_positive] += (sides["negative"], sides["positive"])
        unscored[is_positive] += sides["unscored"]
    (true_negatives, false_positives), (false_negatives, true_positives) = counts.astype(int).tolist()
    n = int(counts.sum())
    # An unscored answer is missing from the figures over all answers, and from recall if people call it positive. It is
    # not missing from precision, which is over the answers that the judge calls positive.
    return [
        _resampled_figure("f1", f1, counts, group, sum(unscored), seed),
        proportion("precision", true_positives, true_positives + false_positives, group=group),
        proportion("recall", true_positives, true_positives + false_negatives, unscored[1], group),
        proportion("accuracy", true_positives + true_negatives, n, sum(unscored), group),
        _resampled_figure("kappa", kappa, counts, group, sum(unscored), seed),
    ]


def _agreement_of_people(labelled: Sequence[Labelled], group: str, seed: int) -> Figure | None:
    """Cohen's kappa of the two people over all labels; None where there are not two."""
    pairs = []
    for answer in labelled:
        # An answer that one of them did not label says nothing about their agreement.
        if len(answer.people) == 2 and UNLABELLED not in answer.people:
            pairs.append(answer.people)
    if not pairs:
        return None
    named: set[str] = set()
    for pair in pairs:
        named.update(pair)
    labels = sorted(named)
    counts = np.zeros((len(labels), len(labels)))
    for first, second in pairs:
        counts[labels.index(first), labels.index(second)] += 1
    return _resampled_figure("kappa_people", kappa, counts, group, len(labelled) - len(pairs), seed)


def _resampled_figure(name: str, statistic: Statistic, counts: Counts, group: str, unscored: int, seed: int) -> Figure:
    """A figure with percentiles of the statistic over resamples of the answers."""
    n = int(counts.sum())
    if not n:
        return Figure(name, None, 0, None, None, unscored, group)
    # A draw of n answers with replacement is a multinomial draw of the counts. That takes no loop over answers.
    resampled = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=RESAMPLES)
    values = statistic(np.concatenate([counts[None], resampled.reshape(-1, *counts.shape)]))
    # The answers are scored, but they give no such value: F1 needs a positive one, kappa two labels.
    if np.isnan(values[0]):
        return Figure(name, None, n, None, None, unscored, group)
    return bootstrap_figure(name, values, n, unscored, group)


def f1(counts: Counts) -> NDArray[np.float64]:
    """F1 of the positive label from counts [..., 2, 2]; NaN where neither people nor judge have a positive."""
    hits = counts[..., 1, 1]
    wrong = counts[..., 0, 1] + counts[..., 1, 0]
    return ratio_or_nan(2 * hits, 2 * hits + wrong)


def kappa(counts: Counts) -> NDArray[np.float64]:
    """Cohen's kappa from counts [..., labels, labels]; NaN where chance alone would agree on all."""
    n = counts.sum(axis=(-1, -2))
    agree = np.trace(counts, axis1=-2, axis2=-1) / n
    # Where all answers have one label, chance agrees on all of them, and kappa would be 0 / 0.
    chance = (counts.sum(axis=-1) * counts.sum(axis=-2)).sum(axis=-1) / n**2
    return ratio_or_nan(agree - chance, 1 - chance)
