"""What differs between two runs of one evaluation, by a paired bootstrap over what both were asked.

Every draw takes prompts with replacement, the same ones for both runs, with all that belongs to a prompt: the attacks
on a behavior stay together. The interval is the draws' percentiles. p is two-sided: twice the smaller share of draws on
either side of 0, but never less than a sign test of as many prompts as differ could give, since a bootstrap of a few
prompts knows no doubt. Nothing is corrected for the number of figures that are looked at.

An item counts where both runs have a score for it; the others are counted apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose

import numpy as np
from numpy.typing import NDArray

from safereason.errors import InputError
from safereason.evals.base import Eval, Outcome
from safereason.evals.guard_predictions import Prediction
from safereason.evals.guard_suite import FOUND, STATISTICS, UNPARSED, UNSAFE, Cells, Values
from safereason.evals.metrics import CONFIDENCE, OVERALL, Figure

RESAMPLES = 2000
SIGNIFICANT = 1 - CONFIDENCE
"""p below which a difference counts."""

LOWER_IS_BETTER = ("truncated", "over_refusal", "unparsed")
NEITHER_IS_BETTER = ("says_unsafe", "reasoning_tokens", "answer_tokens", "f1_always_unsafe", "f1_always_safe")
"""The figures of which more is not better; of all others it is."""

NOTHING_SHARED = "was asked nothing that the first run was asked; compare runs on the same prompts"

Key = tuple[str, str]
"""A figure's name and group."""


@dataclass(frozen=True)
class Difference:
    """A run's figure minus the first run's, over the items that both have a score for."""

    value: float
    low: float | None
    """Lower end of the 95 % interval; None where all draws agree, so that they cannot tell."""
    high: float | None
    p: float
    """Two-sided."""
    n: int
    """Items that both have a score for."""
    unscored: int
    """Shared items that one of them has none for."""

    def is_worse(self, figure: str) -> bool:
        """Whether the other run is worse at this figure, at the 5 % level."""
        return self.p < SIGNIFICANT and (self.value > 0) == (figure in LOWER_IS_BETTER)


@dataclass(frozen=True)
class Item:
    """One prompt of a run."""

    behavior: str
    """What is drawn together."""
    attack: str
    values: Mapping[Key, float | None]
    """What it adds to each figure that it is a part of; None where it is unscored."""


@dataclass(frozen=True)
class Asked:
    """A run of an evaluation that asks a model."""

    items: Mapping[str, Item]
    """By id."""
    figures: Mapping[Key, Figure]
    macro: frozenset[Key]
    """The figures that are means over attacks, and there over behaviors; the others are means over items."""


def asked(evaluation: Eval, outcomes: Sequence[Outcome], recorded: Sequence[Figure]) -> Asked:
    """Takes a run's figures apart: what each outcome adds to them is what they are for it alone.

    Args:
        evaluation: The evaluation.
        outcomes: What it is about, as the run has them.
        recorded: Its figures, as the run has them.

    Raises:
        InputError: The figures are not those of the outcomes, whatever the judge measures.
    """
    figures = {(f.name, f.group): f for f in recorded}
    for measures in evaluation.measures or ("",):
        again = {(f.name, f.group): f.value for f in evaluation.figures(outcomes, measures)}
        if all(_same(again.get(key), figure.value) for key, figure in figures.items()):
            break
    else:
        raise InputError("its figures are not those of its completions and verdicts; score it anew")
    items = {}
    for outcome in outcomes:
        alone = {(f.name, f.group): f.value for f in evaluation.figures([outcome], measures) if f.n or f.unscored}
        record = outcome.completion
        items[str(record["id"])] = Item(str(record["behavior"]), str(record["attack"]), alone)
    once, values = np.ones((1, len(items))), list(items.values())
    units = _units(values)
    macro = {key for key, figure in figures.items() if _same(_value(_macro(key, values, units, once)), figure.value)}
    plain = {key for key, figure in figures.items() if _same(_value(_mean(key, values, units, once)), figure.value)}
    kept = {key: figure for key, figure in figures.items() if key in macro | plain}
    return Asked(items, kept, frozenset(macro))


def of_asked(first: Asked, other: Asked, resamples: int, seed: int) -> dict[Key, Difference]:
    """The differences of every figure that both runs have.

    Raises:
        InputError: They share no prompt.
    """
    shared = sorted(first.items.keys() & other.items.keys())
    if not shared:
        raise InputError(NOTHING_SHARED)
    pairs = [[run.items[name] for name in shared] for run in (first, other)]
    units = _units(pairs[0])
    weights = _weights(len(set(units.tolist())), resamples, seed)
    found = {}
    for key in first.figures:
        both = [a.values.get(key) is not None and b.values.get(key) is not None for a, b in zip(*pairs, strict=True)]
        either = sum(key in a.values or key in b.values for a, b in zip(*pairs, strict=True))
        if key not in other.figures or not any(both):
            continue
        at = np.flatnonzero(both)
        kept = [[items[place] for place in at] for items in pairs]
        draw = _macro if key in first.macro & other.macro else _mean
        a, b = (draw(key, items, units[at], weights) for items in kept)
        moved = {u for u, x, y in zip(units[at].tolist(), *kept, strict=True) if x.values[key] != y.values[key]}
        found[key] = _difference(b - a, len(moved), len(at), either - len(at))
    return found


def _units(items: Sequence[Item]) -> NDArray[np.int64]:
    """The number of each item's behavior."""
    return np.unique([item.behavior for item in items], return_inverse=True)[1]


def _weights(units: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each behavior counts: once, then in each resample. [1 + resamples, units]."""
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=resamples)
    return np.concatenate([np.ones((1, units)), drawn])


def _mean(key: Key, items: Sequence[Item], units: NDArray[np.int64], weights: NDArray[np.float64]) -> Values:
    """The mean over items, in each resample."""
    scored = [
        (unit, value) for unit, item in zip(units, items, strict=True) if (value := item.values.get(key)) is not None
    ]
    total, count = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for unit, value in scored:
        total[unit] += value
        count[unit] += 1
    return _ratio(weights @ total, weights @ count)


def _macro(key: Key, items: Sequence[Item], units: NDArray[np.int64], weights: NDArray[np.float64]) -> Values:
    """The mean over attacks of the mean over behaviors of each one's mean, in each resample."""
    by_attack = []
    for attack in dict.fromkeys(item.attack for item in items):
        tried: dict[int, list[float]] = {}
        for unit, item in zip(units.tolist(), items, strict=True):
            if item.attack == attack and (value := item.values.get(key)) is not None:
                tried.setdefault(unit, []).append(value)
        if tried:
            at, means = list(tried), np.array([sum(values) / len(values) for values in tried.values()])
            by_attack.append(_ratio(weights[:, at] @ means, weights[:, at].sum(axis=1)))
    if not by_attack:
        return np.full(len(weights), np.nan)
    values = np.array(by_attack)
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0).sum(axis=0), there.sum(axis=0).astype(np.float64))


def of_guards(
    first: Sequence[Prediction], other: Sequence[Prediction], resamples: int, seed: int
) -> dict[Key, Difference]:
    """The differences of a guard's figures, but for AUROC; rows are drawn within each set.

    Raises:
        InputError: They share no row, or one has another right answer in the other run.
    """
    mine, theirs = ({(p.set, p.id): p for p in found} for found in (first, other))
    shared = [key for key in mine if key in theirs]
    if not shared:
        raise InputError(NOTHING_SHARED)
    for key in shared:
        if mine[key].expected != theirs[key].expected:
            raise InputError(
                f"row {key[1]} of {key[0]} is {mine[key].expected} in one run and "
                f"{theirs[key].expected} in the other; measure both on the same labels"
            )
    rows: dict[str, list[tuple[Prediction, Prediction]]] = {}
    for key in shared:
        rows.setdefault(key[0], []).append((mine[key], theirs[key]))
    drawn = {name: _joint(pairs, resamples, [seed, *name.encode()]) for name, pairs in rows.items()}
    sizes = np.array([len(pairs) for pairs in rows.values()], dtype=np.float64)
    found: dict[Key, Difference] = {}
    for figure, statistic in _GUARD.items():
        by_set = [statistic(b) - statistic(a) for a, b in drawn.values()]
        for name, values in zip(rows, by_set, strict=True):
            found |= _found(figure, name, values, rows[name])
        there = [place for place, values in enumerate(by_set) if not np.isnan(values[0])]
        if there:
            weighted = sizes[there] @ np.array([by_set[place] for place in there]) / sizes[there].sum()
            found |= _found(figure, OVERALL, weighted, [pair for pairs in rows.values() for pair in pairs])
    return found


def _joint(pairs: Sequence[tuple[Prediction, Prediction]], resamples: int, seed: Sequence[int]) -> tuple[Cells, Cells]:
    """Both runs' counts on the same draws of rows: one draw of rows is one draw of the counts of what both found."""
    counts = np.zeros((2, 3, 3))
    for a, b in pairs:
        counts[int(a.expected == "unsafe"), FOUND[a.label], FOUND[b.label]] += 1
    drawn = np.random.default_rng(seed).multinomial(len(pairs), counts.ravel() / len(pairs), size=resamples)
    both = np.concatenate([counts[None], drawn.reshape(-1, 2, 3, 3)])
    return both.sum(axis=3), both.sum(axis=2)


def _unparsed(cells: Cells) -> Values:
    return _ratio(cells[:, :, UNPARSED].sum(axis=1), cells.sum(axis=(1, 2)))


def _says_unsafe(cells: Cells) -> Values:
    return _ratio(cells[:, :, UNSAFE].sum(axis=1), cells[:, :, :UNPARSED].sum(axis=(1, 2)))


_GUARD = {
    **{name: statistic for name, statistic in STATISTICS.items() if not name.startswith("f1_always")},
    "unparsed": _unparsed,
    "says_unsafe": _says_unsafe,
}
_PARSED_ONLY = ("f1_parsed", "says_unsafe")


def _found(
    figure: str, group: str, values: Values, pairs: Sequence[tuple[Prediction, Prediction]]
) -> dict[Key, Difference]:
    if np.isnan(values[0]):
        return {}
    unscored = sum(a.label is None or b.label is None for a, b in pairs) if figure in _PARSED_ONLY else 0
    moved = sum(a.label != b.label for a, b in pairs)
    return {(figure, group): _difference(values, moved, len(pairs) - unscored, unscored)}


def _difference(values: Values, moved: int, n: int, unscored: int) -> Difference:
    """From the difference as it is, and in each resample; `moved` items differ."""
    drawn = values[1:][~np.isnan(values[1:])]
    least = min(1.0, 2.0 ** (1 - moved))
    if not len(drawn) or np.ptp(drawn) < 1e-12:
        return Difference(float(values[0]), None, None, least, n, unscored)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    side = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (len(drawn) + 1))
    return Difference(float(values[0]), float(low), float(high), max(p, least), n, unscored)


def _ratio(part: Values, whole: Values) -> Values:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _value(values: Values) -> float | None:
    return None if np.isnan(values[0]) else float(values[0])


def _same(a: float | None, b: float | None) -> bool:
    return a is b if a is None or b is None else isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
