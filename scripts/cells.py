"""Averages over seeds: a number with its interval for each cell and metric, and for curves.

A cell is a combination of settings; its runs differ only in their seeds. Tables are long, with a
row for each cell and metric. Their columns are ``centre`` (the average), ``low`` and ``high`` (NaN
if there is no interval), and ``count``, the number of seeds with a value.
"""

import math
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d

from experiments.common import stats
from scripts import words

POINTS = 150  # largest number of points of a curve
DRAWN = 6_000  # largest number of points of all curves of a metric, so that drawing takes seconds


def free(runs: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """The axes that distinguish cells, the optimizer first.

    An axis that has one value for each optimizer is left out. Null counts as a value.
    """
    by = runs.groupby("optimizer")
    first = ["optimizer"] if "optimizer" in axes and runs.optimizer.nunique() > 1 else []
    others = [name for name in axes if name not in ("optimizer", "seed")]
    return first + [name for name in others if by[name].nunique(dropna=False).max() > 1]


def metrics(frame: pd.DataFrame, axes: Collection[str]) -> list[str]:
    """The columns of a table that are measured numbers."""
    return [
        name
        for name in frame
        if name not in axes
        and name not in ("step", "diverged_at", "diverged")
        and pd.api.types.is_numeric_dtype(frame[name])
    ]


def usual(metric: str) -> str:
    """The usual average of a metric: the median if a missing number means never, else the mean."""
    return "median" if words.never(metric) else "mean"


def estimate(values: pd.Series, average: str, band: str) -> tuple[float, float, float]:
    """The average of the seeds of a cell, and the ends of its band.

    Args:
        values: one per seed; NaN where a seed has no number.
        average: mean, geometric mean or median. The median counts NaN as infinite, the others leave
            it out.
        band: ``interval``, the 95 % interval, or ``range``, the lowest and the highest seed.
    """
    found = values.dropna().to_numpy(float)
    if average == "median":
        centre, low, high = stats.median(values)
    else:
        logs = average == "geometric mean"
        mean = stats.mean(np.log(found) if logs else found)
        ends = (mean.centre, mean.low, mean.high)
        centre, low, high = (math.exp(x) for x in ends) if logs else ends
    if band == "range":
        low, high = (found.min(), found.max()) if len(found) > 1 else (math.nan, math.nan)
    return centre, low, high


def summarised(
    frame: pd.DataFrame,
    by: list[str],
    names: Sequence[str],
    average: str | None = None,
    band: str = "interval",
) -> pd.DataFrame:
    """One row per group and metric: average, band, and the number of seeds with a value.

    Args:
        frame: a row per run, or per run and step.
        by: the columns whose values make a group.
        names: the metrics.
        average: mean, geometric mean or median; by default the usual one of each metric.
        band: interval or range.
    """
    rows = []
    grouped = frame.groupby(by, sort=False, dropna=False) if by else [((), frame)]
    for key, group in grouped:
        place = dict(zip(by, key, strict=True))
        for name in names:
            centre, low, high = estimate(group[name], average or usual(name), band)
            ends = {"centre": centre, "low": low, "high": high, "count": group[name].count()}
            rows.append(place | {"metric": name} | ends)
    return pd.DataFrame(rows)


def ended(runs: pd.DataFrame) -> pd.Series:
    """Whether each run was ended because it had diverged."""
    return runs.diverged_at.notna() if "diverged_at" in runs else pd.Series(False, runs.index)


def cells(
    runs: pd.DataFrame,
    by: list[str],
    names: Sequence[str],
    diverged: pd.Series | None = None,
    average: str | None = None,
) -> pd.DataFrame:
    """One row per cell and metric, with the numbers of seeds and of diverged runs of the cell.

    The numbers of diverged runs are left out, because divergence is a result of its own.

    Args:
        runs: a row per run.
        by: the axes whose values make a cell.
        names: the metrics.
        diverged: whether each run has diverged; by default whether it was ended for that reason.
        average: mean, geometric mean or median; by default the usual one of each metric.
    """
    diverged = ended(runs) if diverged is None else diverged
    numbers = pd.concat([runs[by], runs[list(names)].mask(diverged, axis=0)], axis=1)
    table = summarised(numbers, by, names, average)
    if not by:
        return table.assign(seeds=len(runs), diverged=int(diverged.sum()))
    counts = runs[by].assign(seeds=1, diverged=diverged.astype(int))
    sums = counts.groupby(by, sort=False, dropna=False).sum().reset_index()
    return table.merge(sums, on=by, how="left")


def thinned(curves: pd.DataFrame, by: list[str], points: int = POINTS) -> pd.DataFrame:
    """Curves at no more than ``points`` steps, and at fewer if there are many cells."""
    steps = np.sort(curves.step.unique())
    most = min(points, max(2, DRAWN // len(curves[by].drop_duplicates() if by else [1])))
    places = np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int)
    return curves[curves.step.isin(steps[places])]


def smoothed(curves: pd.DataFrame, metric: str, run: list[str], sigma: float) -> pd.DataFrame:
    """Curves in which the metric of each run is smoothed by a Gaussian.

    Args:
        curves: records in the order of their steps.
        metric: the column to smooth.
        run: the columns whose values make a run.
        sigma: standard deviation of the Gaussian, in records.
    """
    by = curves.groupby(run, sort=False, dropna=False)[metric]
    smooth = by.transform(lambda values: gaussian_filter1d(values.to_numpy(float), sigma))
    return curves.assign(**{metric: smooth})


def shown(row: pd.Series) -> str:
    """A cell's number as text: average and band, and the number of seeds if some have no value."""
    text = words.number(row["centre"])
    if np.isfinite(row["low"]):
        text += f" [{words.number(row['low'])}, {words.number(row['high'])}]"
    whole = row["count"] == row["seeds"]
    return text if whole else f"{text} ({row['count']} of {row['seeds']})"


def readable(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """One row per cell as text: its axes, numbers of seeds and of diverged runs, and metrics."""
    frame = table.assign(text=[shown(row) for row in table.to_dict("records")])
    order = list(dict.fromkeys(frame.metric))
    for name in by:
        frame[name] = frame[name].map(words.value, na_action=None)
    counts = ["seeds", "diverged"] if frame.diverged.any() else ["seeds"]
    wide = frame.pivot_table(
        index=[*by, *counts], columns="metric", values="text", aggfunc="first", sort=False
    )
    return wide[order].reset_index().rename_axis(columns=None)
