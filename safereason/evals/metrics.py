"""Figures: each with the number it is made of, a 95 % interval, and the count that could not be scored."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
OVERALL = "all"


@dataclass(frozen=True)
class Figure:
    """One measured quantity."""

    name: str
    value: float | None
    """None where nothing could be scored."""
    n: int
    """Scored items."""
    low: float | None
    """Lower end of the 95 % interval; None where n is too small for one."""
    high: float | None
    """Upper end."""
    unscored: int = 0
    """Items left out of n because they have no score, for whatever reason."""
    group: str = OVERALL
    """`all`, or the part of the items it is about, such as an attack or `category:…`."""
    failed: int = 0
    """Of those unscored, those whose completion or verdict could not be had, and is asked for again."""
    filtered: int = 0
    """Of those unscored, those that the provider's filter refused or cut off: neither refusals nor harmful."""

    @property
    def label(self) -> str:
        """Its name for a bar: `dsr`, or `dsr/direct` for a group's."""
        return self.name if self.group == OVERALL else f"{self.name}/{self.group}"


def proportion(name: str, successes: float, n: int, unscored: int = 0, group: str = OVERALL) -> Figure:
    """A share with Wilson's score interval (without continuity correction).

    Successes need not be whole: the sum of n shares varies less than that of n truths, so that its interval is too wide
    rather than too narrow.
    """
    from scipy.stats import norm

    if n == 0:
        return Figure(name, None, 0, None, None, unscored, group)
    share, z2 = successes / n, float(norm.ppf((1 + CONFIDENCE) / 2)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Figure(name, share, n, max(0.0, centre - half), min(1.0, centre + half), unscored, group)


def share(name: str, truths: Iterable[bool | None], group: str = OVERALL) -> Figure:
    """The share that is true; None is unscored and not part of n."""
    items = list(truths)
    scored = [truth for truth in items if truth is not None]
    return proportion(name, sum(scored), len(scored), len(items) - len(scored), group)


def share_by(name: str, truths: Mapping[str, Sequence[bool | None]], group: str = OVERALL) -> Figure:
    """The mean over items of each one's own share, where an item was tried several times.

    n counts items with anything scored, `unscored` single truths.
    """
    scored = [[truth for truth in tried if truth is not None] for tried in truths.values()]
    shares = [sum(tried) / len(tried) for tried in scored if tried]
    unscored = sum(len(tried) for tried in truths.values()) - sum(map(len, scored))
    return proportion(name, math.fsum(shares), len(shares), unscored, group)


def mean(name: str, values: Sequence[float | None], group: str = OVERALL) -> Figure:
    """A mean with Student's t interval; None is unscored and not part of n."""
    from scipy.stats import t

    scored = [v for v in values if v is not None]
    n, unscored = len(scored), len(values) - len(scored)
    if n == 0:
        return Figure(name, None, 0, None, None, unscored, group)
    centre = math.fsum(scored) / n
    if n == 1:
        return Figure(name, centre, 1, None, None, unscored, group)
    deviation = math.sqrt(math.fsum((v - centre) ** 2 for v in scored) / (n - 1))
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / math.sqrt(n)
    return Figure(name, centre, n, centre - half, centre + half, unscored, group)


def macro(name: str, parts: Sequence[Figure], group: str = OVERALL) -> Figure:
    """The mean of groups' figures, each with the same weight; a group with nothing scored is left out.

    The interval's ends are the means of the groups' ends: exact for one group, and too wide rather than too narrow for
    several, since groups made of the same behaviors are not independent.
    """
    n, unscored = sum(p.n for p in parts), sum(p.unscored for p in parts)
    scored = [
        (p.value, p.low, p.high) for p in parts if p.value is not None and p.low is not None and p.high is not None
    ]
    if not scored:
        return Figure(name, None, n, None, None, unscored, group)
    value, low, high = (math.fsum(column) / len(scored) for column in zip(*scored, strict=True))
    return Figure(name, value, n, low, high, unscored, group)
