"""Intervals and tests that figures and claims share. All intervals are 95 % unless said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter1d
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


def interval(values: ArrayLike) -> tuple[float, float, float]:
    """The mean over seeds with its bias-corrected bootstrap interval (10,000 resamples).

    Args:
        values: one number per seed; at least 2, otherwise the interval is NaN.

    Returns:
        mean, low, high. With no spread at all, three times the same.
    """
    x = np.asarray(values, float)
    centre = float(x.mean())
    if len(x) < 2:
        return centre, float("nan"), float("nan")
    if np.ptp(x) == 0:
        return centre, centre, centre
    result = bootstrap(
        (x,),
        np.mean,
        confidence_level=LEVEL,
        method="BCa",
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


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of all scores (Agarwal et al. 2021): a quarter of each end is cut.

    Args:
        scores: of any shape; where a quarter is not a whole number, it is rounded down.
    """
    ordered = np.sort(np.asarray(scores, float), axis=None)
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def probability_of_improvement(a: np.ndarray, b: np.ndarray) -> float:
    """Probability that a run of ``a`` beats one of ``b``, mean over tasks; a tie is half a win.

    Args:
        a, b: scores (runs, tasks), of as many tasks.
    """
    return float((np.sign(a[:, None] - b[None]) / 2 + 0.5).mean())


def stratified(
    statistic: Callable[..., float], *scores: ArrayLike, resamples: int = 2000
) -> tuple[float, float, float]:
    """A statistic over runs and tasks with its percentile interval of the stratified bootstrap.

    In each resample every table's runs are drawn anew, with replacement, for every task by itself.

    Args:
        statistic: of as many tables as there are.
        scores: each (runs, tasks).
        resamples: of the bootstrap.

    Returns:
        statistic, low, high.
    """
    tables = [np.asarray(table, float) for table in scores]
    rng = np.random.default_rng(0)
    values = [
        statistic(*(np.take_along_axis(t, rng.integers(len(t), size=t.shape), 0) for t in tables))
        for _ in range(resamples)
    ]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return statistic(*tables), float(low), float(high)


def maxima_by_chance(
    a: ArrayLike, b: ArrayLike, sigma: float = 2, resamples: int = 10_000
) -> float:
    """How often chance alone puts the maxima of two noisy curves as far apart: a p-value.

    A maximum of many values is high by luck too, the more so the more they scatter. Under the null
    hypothesis both curves are the mean of the two after smoothing; what each scatters around its
    own smoothing, at that time, is drawn anew with a random sign (wild bootstrap), for either curve
    from both.

    Args:
        a, b: values at the same times.
        sigma: of the Gaussian that smooths, in times.
        resamples: of the bootstrap.

    Returns:
        share of the pairs of such curves whose maxima differ at least as much, either way.
    """
    pair = np.stack([a, b]).astype(float)
    smooth = gaussian_filter1d(pair, sigma, axis=1)
    rng = np.random.default_rng(0)
    shape = (2, resamples, pair.shape[1])
    times = np.arange(pair.shape[1])
    scatter = (pair - smooth)[rng.integers(2, size=shape), times] * rng.choice([-1, 1], size=shape)
    first, second = (smooth.mean(0) + scatter).max(-1)
    return float((np.abs(first - second) >= abs(np.subtract(*pair.max(1)))).mean())
