"""Intervals and tests that figures and claims share. All intervals are 95 % unless said."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import binom, bootstrap, norm

LEVEL = 0.95


def proportion(
    successes: ArrayLike, trials: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of successes with Wilson's score interval, elementwise.

    Args:
        successes: counts.
        trials: counts, at least 1.

    Returns:
        share, low, high, each of the arguments' shape.
    """
    k, n = np.asarray(successes, float), np.asarray(trials, float)
    z = norm.ppf((1 + LEVEL) / 2)
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return p, np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def interval(values: ArrayLike, statistic: str = "mean") -> tuple[float, float, float]:
    """A statistic over seeds with its bias-corrected bootstrap interval (10,000 resamples).

    Args:
        values: one number per seed; at least 2, otherwise the interval is NaN.
        statistic: ``mean`` or ``median``.

    Returns:
        statistic, low, high. With no spread at all, three times the same.
    """
    x = np.asarray(values, float)
    function = {"mean": np.mean, "median": np.median}[statistic]
    centre = float(function(x))
    if len(x) < 2:
        return centre, float("nan"), float("nan")
    if np.ptp(x) == 0:
        return centre, centre, centre
    # A percentile interval for the median: the bias correction is undefined for its ties.
    method = "BCa" if statistic == "mean" else "percentile"
    result = bootstrap(
        (x,),
        function,
        confidence_level=LEVEL,
        method=method,
        n_resamples=10_000,
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return centre, float(low), float(high)


def median(values: ArrayLike) -> tuple[float, float, float]:
    """Median with its distribution-free interval between two order statistics.

    Args:
        values: numbers; NaN stands for "later than the run lasted" and counts as infinite, so
            that runs which never arrive are not left out.

    Returns:
        median, low, high; infinite where so many runs never arrive.
    """
    x = np.sort(np.nan_to_num(np.asarray(values, float), nan=np.inf))
    n = len(x)
    below = int(binom.ppf((1 - LEVEL) / 2, n, 0.5))  # ranks below and above that can be left out
    middle = x[(n - 1) // 2] if np.isinf(x[n // 2]) else (x[(n - 1) // 2] + x[n // 2]) / 2
    return float(middle), float(x[max(below - 1, 0)]), float(x[min(n - below, n - 1)])


def paired_difference(a: pd.Series, b: pd.Series) -> tuple[float, float, float]:
    """Mean of a - b over the seeds that both index, with its bootstrap interval."""
    return interval((a - b).dropna().to_numpy())
