"""Differences between two runs of one evaluation, by a paired bootstrap over the prompts that both had.

Every draw takes prompts with replacement, the same ones for both runs, with all that belongs to a prompt: the attacks
on a behavior stay together. The interval is the draws' percentiles. p is two-sided: twice the smaller share of draws on
either side of 0, but never less than a sign test of as many prompts as differ could give, since a bootstrap of a few
prompts knows no doubt. Nothing is corrected for the number of figures that are looked at.

An item counts where both runs have a score for it; the others are counted apart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose

import numpy as np
from numpy.typing import NDArray

from safereason.errors import InputError
from safereason.evals.base import Eval, Outcome
from safereason.evals.bootstrap import Values, percentile_interval, ratio_or_nan
from safereason.evals.guard_predictions import Prediction
from safereason.evals.guard_suite import STATISTICS, UNPARSED, UNSAFE, VERDICT_INDEX, ConfusionCounts
from safereason.evals.metrics import CONFIDENCE, OVERALL, Better, Figure, FigureKey
from safereason.judges.base import Measure

RESAMPLES = 2000
SIGNIFICANT = 1 - CONFIDENCE
"""Level of p below which a difference counts."""

NOTHING_SHARED = "shares no prompt with the first run; compare runs on the same prompts"

PredictionPair = tuple[Prediction, Prediction]
"""The predictions of both runs for one row."""


@dataclass(frozen=True)
class Difference:
    """A run's figure minus the first run's, over the items that both runs have a score for."""

    value: float
    low: float | None
    """Lower end of the 95 % interval; None where all draws agree, so that they cannot tell."""
    high: float | None
    p: float
    """Two-sided p of the difference, as the module works it out."""
    n: int
    """Items that both runs have a score for."""
    unscored: int
    """Shared items without a score in one of the runs."""

    def is_worse(self, better: Better) -> bool:
        """Whether the other run is worse at the 5 % level, at a figure of which these values are better."""
        if better == "neither" or self.p >= SIGNIFICANT:
            return False
        # A rise is a loss for a figure that should be low.
        return (self.value > 0) == (better == "lower")


@dataclass(frozen=True)
class Item:
    """One prompt of a run, with its value in each figure."""

    behavior: str
    """The behavior's id. Items of one behavior are drawn together."""
    attack: str
    values: Mapping[FigureKey, float | None]
    """Values for the figures that the prompt is a part of; None where it is unscored."""


@dataclass(frozen=True)
class EvalScores:
    """The scores of a run's prompts, from which its figures can be computed again."""

    items: Mapping[str, Item]
    """Prompts by id."""
    figures: Mapping[FigureKey, Figure]
    """The figures that are means of the prompts' values, as recorded."""


def collect_scores(
    evaluation: Eval, outcomes: Sequence[Outcome], recorded: Sequence[Figure], measure: Measure | None
) -> EvalScores:
    """The scores of a run's prompts for each of its figures.

    Args:
        evaluation: The run's evaluation.
        outcomes: The run's completions with their verdicts.
        recorded: The run's figures, as in its `metrics.json`.
        measure: The judge's measure, as there; None for an evaluation without a judge.

    Raises:
        InputError: The figures are not those of the outcomes.
    """
    figures = {(figure.name, figure.group): figure for figure in recorded}
    _check_recorded(evaluation.figures(outcomes, measure), figures)
    items = {}
    for outcome in outcomes:
        record = outcome.completion
        values = _values_of_one(evaluation, outcome, measure)
        items[str(record["id"])] = Item(str(record["behavior"]), str(record["attack"]), values)
    # A statistic of all items together is no mean of single ones, so that nothing is paired.
    means = {key: figure for key, figure in figures.items() if figure.aggregation != "statistic"}
    return EvalScores(items, means)


def _check_recorded(computed: Sequence[Figure], recorded: Mapping[FigureKey, Figure]) -> None:
    """Refuses recorded figures that its completions and verdicts do not give."""
    values = {(figure.name, figure.group): figure.value for figure in computed}
    if not all(_same(values.get(key), figure.value) for key, figure in recorded.items()):
        raise InputError("its figures are not those of its completions and verdicts; score it anew")


def _values_of_one(evaluation: Eval, outcome: Outcome, measure: Measure | None) -> dict[FigureKey, float | None]:
    """The figures of a single outcome; without those that it is no part of."""
    values = {}
    for figure in evaluation.figures([outcome], measure):
        if figure.n or figure.unscored:
            values[figure.name, figure.group] = figure.value
    return values


def of_evals(first: EvalScores, other: EvalScores, resamples: int, seed: int) -> dict[FigureKey, Difference]:
    """The differences of every figure that both runs have.

    Raises:
        InputError: They share no prompt.
    """
    # Sorted, so that the draws do not depend on the order of the records.
    shared = sorted(first.items.keys() & other.items.keys())
    if not shared:
        raise InputError(NOTHING_SHARED)
    first_items = [first.items[name] for name in shared]
    other_items = [other.items[name] for name in shared]
    units = _units(first_items)
    weights = _weights(len(set(units.tolist())), resamples, seed)
    differences = {}
    for key in first.figures:
        if key not in other.figures:
            continue
        scored_first = []
        scored_other = []
        unit_list = []
        # Behaviors on which the runs differ. A sign test would count these, since behaviors are drawn and not items.
        moved = set()
        concerned = 0
        for unit, mine, theirs in zip(units.tolist(), first_items, other_items, strict=True):
            concerned += key in mine.values or key in theirs.values
            if mine.values.get(key) is None or theirs.values.get(key) is None:
                continue
            scored_first.append(mine)
            scored_other.append(theirs)
            unit_list.append(unit)
            if mine.values[key] != theirs.values[key]:
                moved.add(unit)
        if not scored_first:
            continue
        scored_units = np.array(unit_list)
        statistic = _plain_mean
        if first.figures[key].aggregation == "macro":
            statistic = _macro_mean
        difference = statistic(key, scored_other, scored_units, weights) - statistic(
            key, scored_first, scored_units, weights
        )
        n = len(scored_first)
        differences[key] = _difference(difference, len(moved), n, concerned - n)
    return differences


def _units(items: Sequence[Item]) -> NDArray[np.int64]:
    """The number of each item's behavior."""
    return np.unique([item.behavior for item in items], return_inverse=True)[1]


def _weights(units: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """Number of times that each behavior counts: once, then in each resample. [1 + resamples, units]."""
    # A draw of behaviors with replacement, as the number of times that each was drawn.
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=resamples)
    return np.concatenate([np.ones((1, units)), drawn])


def _plain_mean(
    key: FigureKey, items: Sequence[Item], units: NDArray[np.int64], weights: NDArray[np.float64]
) -> Values:
    """The mean over items, in each resample."""
    # Sums by behavior first: then a resample is one product, and takes no loop over items.
    total = np.zeros(weights.shape[1])
    count = np.zeros(weights.shape[1])
    for unit, item in zip(units.tolist(), items, strict=True):
        value = item.values.get(key)
        if value is not None:
            total[unit] += value
            count[unit] += 1
    return ratio_or_nan(weights @ total, weights @ count)


def _macro_mean(
    key: FigureKey, items: Sequence[Item], units: NDArray[np.int64], weights: NDArray[np.float64]
) -> Values:
    """The mean over attacks of the mean over behaviors of each one's mean, in each resample."""
    values_by_attack: dict[str, dict[int, list[float]]] = {}
    for unit, item in zip(units.tolist(), items, strict=True):
        values_by_unit = values_by_attack.setdefault(item.attack, {})
        value = item.values.get(key)
        if value is not None:
            values_by_unit.setdefault(unit, []).append(value)
    means_by_attack = []
    for values_by_unit in values_by_attack.values():
        if not values_by_unit:
            continue
        attacked_units = list(values_by_unit)
        unit_means = np.array([sum(values) / len(values) for values in values_by_unit.values()])
        drawn = weights[:, attacked_units]
        means_by_attack.append(ratio_or_nan(drawn @ unit_means, drawn.sum(axis=1)))
    if not means_by_attack:
        return np.full(len(weights), np.nan)
    means = np.array(means_by_attack)
    # A resample may hold no behavior of an attack. Then its mean is over the other attacks.
    is_defined = ~np.isnan(means)
    return ratio_or_nan(np.where(is_defined, means, 0).sum(axis=0), is_defined.sum(axis=0).astype(np.float64))


def of_guards(
    first: Sequence[Prediction], other: Sequence[Prediction], resamples: int, seed: int
) -> dict[FigureKey, Difference]:
    """The differences of a guard's figures, but for AUROC; rows are drawn within each set.

    Raises:
        InputError: They share no row, or one has another right answer in the other run.
    """
    # AUROC is missing, since counts of verdicts hold no scores.
    pairs_by_set = _pair_by_set(first, other)
    drawn_by_set = {}
    for name, pairs in pairs_by_set.items():
        # The name is part of the seed, so that a set's draws do not depend on the other sets.
        drawn_by_set[name] = _draw_both(pairs, resamples, [seed, *name.encode()])
    all_pairs = [pair for pairs in pairs_by_set.values() for pair in pairs]
    differences: dict[FigureKey, Difference] = {}
    for figure, statistic in _GUARD_STATISTICS.items():
        defined_values = []
        defined_sizes = []
        for name, (first_cells, other_cells) in drawn_by_set.items():
            values = statistic(other_cells) - statistic(first_cells)
            # Such a figure is not defined on the set, as F1 without an unsafe row.
            if np.isnan(values[0]):
                continue
            differences[figure, name] = _guard_difference(figure, values, pairs_by_set[name])
            defined_values.append(values)
            defined_sizes.append(len(pairs_by_set[name]))
        if defined_values:
            sizes = np.array(defined_sizes, dtype=np.float64)
            weighted = sizes @ np.array(defined_values) / sizes.sum()
            differences[figure, OVERALL] = _guard_difference(figure, weighted, all_pairs)
    return differences


def _pair_by_set(first: Sequence[Prediction], other: Sequence[Prediction]) -> dict[str, list[PredictionPair]]:
    """The predictions of both runs for each shared row, by set, in the first run's order."""
    first_by_row = _by_row(first)
    other_by_row = _by_row(other)
    pairs_by_set: dict[str, list[PredictionPair]] = {}
    for row, mine in first_by_row.items():
        if row not in other_by_row:
            continue
        theirs = other_by_row[row]
        # A source may have corrected a label between the runs. Then a difference says nothing about the guards.
        if mine.expected != theirs.expected:
            raise InputError(
                f"row {mine.id} of {mine.set} is {mine.expected} in one run and "
                f"{theirs.expected} in the other; measure both on the same labels"
            )
        pairs_by_set.setdefault(mine.set, []).append((mine, theirs))
    if not pairs_by_set:
        raise InputError(NOTHING_SHARED)
    return pairs_by_set


def _by_row(predictions: Sequence[Prediction]) -> dict[tuple[str, str], Prediction]:
    """Predictions by set and id; of a row that is there twice, the last one."""
    return {(prediction.set, prediction.id): prediction for prediction in predictions}


def _draw_both(
    pairs: Sequence[PredictionPair], resamples: int, seed: Sequence[int]
) -> tuple[ConfusionCounts, ConfusionCounts]:
    """Both runs' counts as they are and in each resample of rows, which is the same one for both.

    Rows alike in label and both verdicts are counted, [2, 3, 3], and a draw of rows is a draw of these counts.
    """
    counts = np.zeros((2, 3, 3))
    for mine, theirs in pairs:
        counts[int(mine.expected == "unsafe"), VERDICT_INDEX[mine.label], VERDICT_INDEX[theirs.label]] += 1
    drawn = np.random.default_rng(seed).multinomial(len(pairs), counts.ravel() / len(pairs), size=resamples)
    joint = np.concatenate([counts[None], drawn.reshape(-1, 2, 3, 3)])
    return joint.sum(axis=3), joint.sum(axis=2)


def _unparsed_share(cells: ConfusionCounts) -> Values:
    return ratio_or_nan(cells[:, :, UNPARSED].sum(axis=1), cells.sum(axis=(1, 2)))


def _unsafe_share(cells: ConfusionCounts) -> Values:
    return ratio_or_nan(cells[:, :, UNSAFE].sum(axis=1), cells[:, :, :UNPARSED].sum(axis=(1, 2)))


def _guard_statistics() -> dict[str, Callable[[ConfusionCounts], Values]]:
    """The figures of a guard that can differ: the baselines depend on the labels alone, which are the same."""
    statistics = {name: statistic for name, statistic in STATISTICS.items() if not name.startswith("f1_always")}
    statistics["unparsed"] = _unparsed_share
    statistics["says_unsafe"] = _unsafe_share
    return statistics


_GUARD_STATISTICS = _guard_statistics()
_PARSED_ONLY = ("f1_parsed", "says_unsafe")
"""Figures over the rows with a verdict."""


def _guard_difference(figure: str, values: Values, pairs: Sequence[PredictionPair]) -> Difference:
    """The difference of a guard's figure, with the counts of the rows that it is about."""
    moved = 0
    without_verdict = 0
    for mine, theirs in pairs:
        moved += mine.label != theirs.label
        without_verdict += mine.label is None or theirs.label is None
    unscored = 0
    if figure in _PARSED_ONLY:
        unscored = without_verdict
    return _difference(values, moved, len(pairs) - unscored, unscored)


def _difference(values: Values, moved: int, n: int, unscored: int) -> Difference:
    """The difference from its value and its values in the resamples, where `moved` items differ between the runs."""
    value, resampled = float(values[0]), values[1:]
    drawn = resampled[~np.isnan(resampled)]
    # The p of a sign test where all of the items that differ do so in the same direction.
    least_p = min(1.0, 2.0 ** (1 - moved))
    if not len(drawn) or np.ptp(drawn) < 1e-12:
        return Difference(value, None, None, least_p, n, unscored)
    low, high = percentile_interval(drawn)
    on_smaller_side = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    # One is added to both counts, since a p of 0 is more than any number of resamples can tell.
    p = min(1.0, 2 * (on_smaller_side + 1) / (len(drawn) + 1))
    return Difference(value, low, high, max(p, least_p), n, unscored)


def _same(a: float | None, b: float | None) -> bool:
    """Whether two values are equal up to rounding."""
    if a is None or b is None:
        return a is b
    return isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
