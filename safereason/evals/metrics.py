"""Figures: values with the number of scored items, a 95 % interval, and the number of unscored items."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from safereason.errors import InputError

CONFIDENCE = 0.95
OVERALL = "all"
Aggregation = Literal["mean", "macro", "statistic"]
"""The way from items to a figure: `mean` over items; `macro` over attacks, in each over behaviors, and there over a
behavior's test cases; `statistic` of all items together, such as F1 or a margin."""

Better = Literal["higher", "lower", "neither"]
"""Values of a figure that are the better ones; `neither` where a difference is no gain and no loss."""


@dataclass(frozen=True)
class FigureInfo:
    """The description of a figure that an evaluation reports."""

    name: str
    title: str = ""
    """Name in a report; empty where that is `name` with spaces."""
    unit: str | None = None
    """Unit, such as `tokens`; empty for a plain number, None for a share, which is shown in percent."""
    better: Better = "higher"
    judged: bool = True
    """Whether it depends on the evaluation's judge."""
    headline: bool = False
    """Whether it has a column in the report's main table."""


@dataclass(frozen=True)
class Figure:
    """One measured quantity, with its 95 % interval and the number of items behind it."""

    name: str
    value: float | None
    """Value in the figure's unit; None where nothing could be scored."""
    n: int
    """Items that the value is made of, all of them scored."""
    low: float | None
    """Lower end of the 95 % interval; None where n is too small for one."""
    high: float | None
    """Upper end of that interval; None likewise."""
    unscored: int = 0
    """Items left out of n because they have no score, for any reason."""
    group: str = OVERALL
    """`all`, or the part of the items that it covers, such as an attack or `category:…`."""
    failed: int = 0
    """Of those unscored, those whose completion or verdict failed. `--resume` repeats the request."""
    filtered: int = 0
    """Of those unscored, those that the provider's filter refused or cut off: neither refusals nor harmful."""
    aggregation: Aggregation = "statistic"

    @property
    def label(self) -> str:
        """Name on the command line: `dsr`, or `dsr/direct` for a group's."""
        if self.group == OVERALL:
            return self.name
        return f"{self.name}/{self.group}"


FigureKey = tuple[str, str]
"""A figure's name and group."""

_VALIDATOR = TypeAdapter(list[Figure])


def recorded_figures(metrics: Mapping[str, object], where: object) -> list[Figure]:
    """The figures of a `metrics.json`. Keys that a later version may have written are left out.

    Raises:
        InputError: The file was damaged or edited, so that they are no figures; the message begins with `where`.
    """
    try:
        return _VALIDATOR.validate_python(metrics.get("figures"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("figures", *first["loc"])))
        raise InputError(f"{where}: metrics.json: `{key}`: {first['msg'].lower()}; make the run anew") from error


def proportion(name: str, successes: float, n: int, unscored: int = 0, group: str = OVERALL) -> Figure:
    """A share with Wilson's score interval (without continuity correction).

    Successes need not be whole: the sum of n shares varies less than that of n truths, so that its interval is too wide
    rather than too narrow.
    """
    # scipy takes a moment to load, which `--help` and the listings should not wait for.
    from scipy.stats import norm

    if n == 0:
        return Figure(name, None, 0, None, None, unscored, group, aggregation="mean")
    # Wilson's interval holds for shares near 0 and 1, where the normal one is too narrow or leaves [0, 1].
    share = successes / n
    z2 = float(norm.ppf((1 + CONFIDENCE) / 2)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At a share of 0 or 1 rounding can put an end just outside of [0, 1].
    return Figure(name, share, n, max(0.0, centre - half), min(1.0, centre + half), unscored, group, aggregation="mean")


def share(name: str, truths: Iterable[bool | None], group: str = OVERALL) -> Figure:
    """The share of truths among the scored items; None is unscored and no part of n."""
    items = list(truths)
    scored = [truth for truth in items if truth is not None]
    return proportion(name, sum(scored), len(scored), len(items) - len(scored), group)


def share_by(name: str, truths: Mapping[str, Sequence[bool | None]], group: str = OVERALL) -> Figure:
    """The mean over behaviors of each one's own share, for behaviors with several test cases: a macro mean.

    n counts behaviors with a scored truth, `unscored` counts single truths.
    """
    shares = []
    unscored = 0
    for tries in truths.values():
        scored = [truth for truth in tries if truth is not None]
        unscored += len(tries) - len(scored)
        if scored:
            shares.append(sum(scored) / len(scored))
    # `fsum` does not round on the way, so that the order of the behaviors does not change the figure.
    figure = proportion(name, math.fsum(shares), len(shares), unscored, group)
    return replace(figure, aggregation="macro")


def mean(name: str, values: Sequence[float | None], group: str = OVERALL) -> Figure:
    """A mean with Student's t interval; None is unscored and no part of n."""
    from scipy.stats import t

    scored = [value for value in values if value is not None]
    n = len(scored)
    unscored = len(values) - n
    if n == 0:
        return Figure(name, None, 0, None, None, unscored, group, aggregation="mean")
    centre = math.fsum(scored) / n
    # One value has no spread, and so no interval.
    if n == 1:
        return Figure(name, centre, 1, None, None, unscored, group, aggregation="mean")
    squares = [(value - centre) ** 2 for value in scored]
    deviation = math.sqrt(math.fsum(squares) / (n - 1))
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / math.sqrt(n)
    return Figure(name, centre, n, centre - half, centre + half, unscored, group, aggregation="mean")


def macro(name: str, parts: Sequence[Figure], group: str = OVERALL) -> Figure:
    """The mean of groups' figures, each with the same weight; a group with nothing scored is left out.

    The interval's ends are the means of the groups' ends: exact for one group, and too wide rather than too narrow for
    several, since groups made of the same behaviors are not independent.
    """
    n = 0
    unscored = 0
    values = []
    lows = []
    highs = []
    for part in parts:
        n += part.n
        unscored += part.unscored
        if part.value is not None and part.low is not None and part.high is not None:
            values.append(part.value)
            lows.append(part.low)
            highs.append(part.high)
    if not values:
        return Figure(name, None, n, None, None, unscored, group, aggregation="macro")
    value = math.fsum(values) / len(values)
    low = math.fsum(lows) / len(lows)
    high = math.fsum(highs) / len(highs)
    return Figure(name, value, n, low, high, unscored, group, aggregation="macro")
