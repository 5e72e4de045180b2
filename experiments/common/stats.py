"""Intervals and tests that figures and claims share. By default intervals are 95 %, two-sided.

Each function states how many seeds its method needs. With fewer it gives no interval, and nothing
can be decided. ``tests/test_stats.py`` simulates the coverage of each.

A verdict depends on p-values. A test of one interval uses half of :data:`ALPHA` on either side, so
it decides exactly when the printed interval lies on one side of the limit. A claim about every one
of several cells holds if the test of every cell says so, which needs no correction. It fails if the
test of at least one cell says so, with Holm's correction for the number of cells. For a claim that
at least one cell has a property, the two are exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter1d
from scipy.special import stdtr, stdtrit  # Student's t, and its inverse
from scipy.stats import binom, binomtest, trim_mean

LEVEL = 0.95
ALPHA = 1 - LEVEL

ROUNDING = 1e-9  # numbers with a smaller relative difference count as equal

# The fewest seeds at which each method's interval has its stated coverage.
FEWEST_FOR_MEAN = 2
FEWEST_FOR_JACKKNIFE = 5


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error over seeds; formatted as ``+0.12 [+0.05, +0.19]``.

    Attributes:
        centre: the number.
        error: its standard error; NaN if there is no interval.
        df: degrees of freedom of Student's t.
        alpha: probability that the interval misses the truth.
    """

    centre: float
    error: float = math.nan
    df: float = 1
    alpha: float = ALPHA

    @property
    def low(self) -> float:
        """Lower end of the interval, NaN if there is none."""
        return self.centre - float(stdtrit(self.df, 1 - self.alpha / 2)) * self.error

    @property
    def high(self) -> float:
        """Upper end of the interval, NaN if there is none."""
        return self.centre + float(stdtrit(self.df, 1 - self.alpha / 2)) * self.error

    def above(self, limit: float = 0.0) -> float:
        """One-sided p-value of "the truth is above ``limit``"; 1 if there is no interval."""
        if math.isnan(self.error):
            return 1.0
        return float(stdtr(self.df, (limit - self.centre) / self.error))

    def below(self, limit: float = 0.0) -> float:
        """One-sided p-value of "the truth is below ``limit``"; 1 if there is no interval."""
        return Estimate(-self.centre, self.error, self.df).above(-limit)

    def __format__(self, spec: str) -> str:
        return f"{self.centre:{spec}} {interval(self.low, self.high, spec)}"


def interval(low: float, high: float, spec: str = "") -> str:
    """``[low, high]``, or ``[no interval]`` where there is none, as for a single seed."""
    if math.isnan(low) or math.isnan(high):
        return "[no interval]"
    return f"[{low:{spec}}, {high:{spec}}]"


# Estimates ----------------------------------------------------------------------------------------


def mean(values: ArrayLike, alpha: float = ALPHA) -> Estimate:
    """The mean over seeds, with Student's t.

    Args:
        values: one number per seed. Fewer than two, or numbers that are all equal, give no
            interval, because a few equal seeds do not show how much others would differ.
        alpha: probability that the interval misses the true mean; pass a smaller one if several
            intervals are used together, or if the mean was chosen from several.
    """
    x = np.asarray(values, float)
    if len(x) < FEWEST_FOR_MEAN or np.ptp(x) <= ROUNDING * np.abs(x).max():
        return Estimate(float(x.mean()) if len(x) else math.nan)
    error = float(x.std(ddof=1) / math.sqrt(len(x)))
    return Estimate(float(x.mean()), error, len(x) - 1, alpha)


def paired(a: pd.Series, b: pd.Series) -> Estimate:
    """Mean of a - b over the seeds that are in the index of both.

    A missing number makes the mean NaN, so that nothing can be decided.
    """
    both = a.index.intersection(b.index)
    return mean((a[both] - b[both]).to_numpy())


def log_ratio(a: pd.Series, b: pd.Series) -> Estimate:
    """Mean over seeds of the logarithm of a / b; both have the same seeds as their index.

    A missing number makes the mean NaN, so that nothing can be decided.
    """
    return mean((np.log(a) - np.log(b)).to_numpy())


def jackknife(statistic: Callable[..., float], *tables: ArrayLike) -> Estimate:
    """A statistic over runs and tasks, with Student's t over the jackknife's pseudo-values.

    Each seed in turn is left out from all tables and tasks at once, so the interval stays correct
    although the numbers of one seed may be correlated.

    Args:
        statistic: a function of all the tables.
        tables: each (seeds, tasks), with the same seeds; fewer than five give no interval.
    """
    arrays = [np.asarray(table, float) for table in tables]
    n, whole = len(arrays[0]), statistic(*arrays)
    if n < FEWEST_FOR_JACKKNIFE:
        return Estimate(whole)
    left = [statistic(*(np.delete(x, seed, axis=0) for x in arrays)) for seed in range(n)]
    spread = mean(n * whole - (n - 1) * np.array(left))
    return Estimate(whole, spread.error, spread.df)


def median(values: ArrayLike, alpha: float = ALPHA) -> tuple[float, float, float]:
    """Median with its distribution-free interval between two order statistics.

    Args:
        values: numbers; NaN means "later than the end of the run" and counts as infinite, so that
            such runs are not left out.
        alpha: probability that the interval misses the true median; pass a smaller one if several
            intervals are used together.

    Returns:
        median, low, high. Each may be infinite if many values are. If exactly half are infinite,
        the median is the largest of the others. low and high are NaN if there are too few values
        (fewer than six at the default alpha).
    """
    x = np.asarray(values, float)
    x = np.sort(np.where(np.isnan(x), np.inf, x))
    n = len(x)
    middle = x[(n - 1) // 2] if np.isinf(x[n // 2]) else (x[(n - 1) // 2] + x[n // 2]) / 2
    below = int(binom.ppf(alpha / 2, n, 0.5))  # rank of low from below, and of high from above
    if below < 1:
        return float(middle), math.nan, math.nan
    return float(middle), float(x[below - 1]), float(x[n - below])


def proportion(successes: int, trials: int) -> tuple[float, float, float]:
    """Share of successes with Wilson's score interval.

    Args:
        successes: a count.
        trials: a count, at least 1.

    Returns:
        share, low, high.
    """
    test = binomtest(successes, trials)
    interval = test.proportion_ci(LEVEL, method="wilson")
    return float(test.statistic), float(interval.low), float(interval.high)


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of all scores (Agarwal et al. 2021): a quarter at each end is cut.

    Args:
        scores: scores of any shape; a quarter of their number is rounded down.
    """
    return float(trim_mean(scores, 0.25, axis=None))


def probability_of_improvement(a: np.ndarray, b: np.ndarray) -> float:
    """Probability that a run of ``a`` beats one of ``b``, mean over tasks; a tie is half a win.

    Args:
        a, b: scores (runs, tasks), of the same tasks.
    """
    return float((np.sign(a[:, None] - b[None]) / 2 + 0.5).mean())


# p-values -----------------------------------------------------------------------------------------


def share_above(successes: ArrayLike, trials: ArrayLike, limit: float = 0.5) -> np.ndarray:
    """One-sided p-values of "the share is above ``limit``" (exact binomial test), elementwise."""
    return np.asarray(binom.sf(np.asarray(successes) - 1, trials, limit))


def share_below(successes: ArrayLike, trials: ArrayLike, limit: float = 0.5) -> np.ndarray:
    """One-sided p-values of "the share is below ``limit``" (exact binomial test), elementwise."""
    return np.asarray(binom.cdf(successes, trials, limit))


def maxima_by_chance(
    a: ArrayLike, b: ArrayLike, sigma: float = 3, resamples: int = 10_000
) -> float:
    """p-value of a difference between the maxima of two noisy curves.

    A maximum of many values is high partly by chance, more so if they scatter more. The null
    hypothesis is that both curves scatter around the mean of their smoothed versions. A resampled
    curve is this mean plus, at each time, the residual of one of the two curves with a random sign
    (wild bootstrap). A value has a share h in its own smoothed value, which makes its residual too
    small. The residual is therefore divided by (1-h)^1.5, with which the test keeps its level for
    curves of 30 points.

    Args:
        a, b: values at the same times.
        sigma: standard deviation of the Gaussian smoothing, in points of the curve.
        resamples: number of resampled pairs of curves.

    Returns:
        share of the resampled pairs whose maxima differ at least as much, in either direction.
    """
    pair = np.stack([a, b]).astype(float)
    times = np.arange(pair.shape[1])
    smooth = gaussian_filter1d(pair, sigma, axis=1)
    own = np.diag(gaussian_filter1d(np.eye(len(times)), sigma, axis=0))
    residuals = (pair - smooth) / (1 - own) ** 1.5
    rng = np.random.default_rng(0)
    shape = (2, resamples, len(times))
    scatter = residuals[rng.integers(2, size=shape), times] * rng.choice([-1, 1], size=shape)
    first, second = (smooth.mean(0) + scatter).max(-1)
    return float((np.abs(first - second) >= abs(np.subtract(*pair.max(1)))).mean())


# Verdicts -----------------------------------------------------------------------------------------


def decide(true: float, false: float) -> bool | None:
    """The verdict of two p-values: True or False if its own is below ALPHA / 2, else None.

    Args:
        true: p-value of the claim.
        false: p-value of its opposite.
    """
    return True if true < ALPHA / 2 else False if false < ALPHA / 2 else None


def everywhere(p: Iterable[float]) -> float:
    """p-value of "true in every cell": the largest p-value of the cells."""
    return max(p)


def somewhere(p: Iterable[float]) -> float:
    """p-value of "true in at least one cell": the smallest times the number of cells (Holm)."""
    return min(holm(list(p)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of several cells, in their order (Holm 1979).

    The smallest is multiplied by the number of cells, the next by one less, and so on; none is
    below a smaller one's. Each cell can then be judged at the usual level.
    """
    adjusted, largest = [1.0] * len(p), 0.0
    for rank, cell in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[cell]))
        adjusted[cell] = largest
    return adjusted


def every_above(cells: Iterable[Estimate], limit: float = 0.0) -> bool | None:
    """True if the truth is above ``limit`` in every cell, False if below in some, else None."""
    cells = list(cells)
    return decide(
        everywhere(cell.above(limit) for cell in cells),
        somewhere(cell.below(limit) for cell in cells),
    )


def every_below(cells: Iterable[Estimate], limit: float = 0.0) -> bool | None:
    """True if the truth is below ``limit`` in every cell, False if above in some, else None."""
    cells = list(cells)
    return decide(
        everywhere(cell.below(limit) for cell in cells),
        somewhere(cell.above(limit) for cell in cells),
    )


def every_within(cells: Iterable[Estimate], low: float, high: float) -> bool | None:
    """True if the truth lies between ``low`` and ``high`` in every cell, False if not in some.

    None if neither can be decided. An interval cannot be above ``high`` and below ``low`` at once,
    so these two tests of a cell count as one.
    """
    cells = list(cells)
    return decide(
        everywhere(max(cell.above(low), cell.below(high)) for cell in cells),
        somewhere(min(cell.above(high), cell.below(low)) for cell in cells),
    )


def equivalent(estimate: Estimate, margin: float) -> bool | None:
    """True if the interval lies within ``margin`` of 0, False if outside, None if neither."""
    return every_within([estimate], -margin, margin)
