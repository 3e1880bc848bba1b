"""Intervals by the bootstrap, for statistics that no formula gives an interval for."""

import numpy as np
from numpy.typing import NDArray

from safereason.evals.metrics import CONFIDENCE, OVERALL, Figure

Values = NDArray[np.float64]
"""A statistic of the items as they are, then of each resample: [1 + resamples]. NaN where it is not defined."""


def ratio_or_nan(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotients of two arrays of one shape, element by element; NaN where the whole is 0, up to rounding."""
    # Most wholes are counts. The 1 - chance of Cohen's kappa is none, and may miss 0 by a rounding error.
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 1e-12)


def percentile_interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """Ends of the 95 % interval of a statistic, by its values in the resamples: [resamples], all of them defined."""
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def bootstrap_figure(
    name: str, values: Values, n: int, unscored: int, group: str = OVERALL, is_exact: bool = False
) -> Figure:
    """A figure with the percentiles of its values in the resamples.

    Args:
        name: Name of the figure.
        values: Its values; the first one, of the items as they are, is defined.
        n: Scored items.
        unscored: Items without a score.
        group: The items that it covers.
        is_exact: Whether resamples that all agree give an interval of width 0; by default they give none.
    """
    defined = values[1:][~np.isnan(values[1:])]
    # Resamples that all agree cannot tell how far off a measured value may be.
    if not len(defined) or (np.ptp(defined) == 0 and not is_exact):
        return Figure(name, float(values[0]), n, None, None, unscored, group)
    low, high = percentile_interval(defined)
    return Figure(name, float(values[0]), n, low, high, unscored, group)
