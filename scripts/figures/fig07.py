"""Figure 7, appendix C.1: error of an LSTM on IMDB against nu, per level of label noise.

All errors are of the clean test set.
"""

from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import ALPHA, Estimate, every_above, interval, mean, paired
from scripts.effects import Effect, difference, magnitude
from scripts.figures import style
from scripts.paper import NAMES, Measured

GAIN = 10  # points by which, as the paper says, LaProp at nu 0 is better without noise (C.1)


def finding(results: Results) -> str:
    """The title."""
    means = cells(results).mean()
    zero, best = means[0.0]["laprop", 0.0], means[0.0][["adam", "amsgrad"]]
    optimizer, nu = best.idxmin()
    levels = [flip for flip in means.index.unique("flip") if flip > 0]
    first = sum(means[flip]["laprop"].idxmin() == 0 for flip in levels)
    return (
        f"IMDB: without label noise LaProp at ν 0 has {zero:.1f} % errors, {NAMES[optimizer]} at "
        f"its best ν, {nu:g}, {best.min():.1f} %; at {first or 'none'} of {len(levels)} levels of "
        "noise ν 0 has LaProp's lowest mean error"
    )


def draw(results: Results) -> Figure:
    """Mean and interval over seeds; the values of nu at equal distances."""
    errors = cells(results)
    flips = sorted(set(errors.columns.get_level_values("flip")))
    figure, axes = plt.subplots(1, len(flips), figsize=(2.5 * len(flips), 2.9), sharey=True)
    for axis, flip in zip(axes, flips, strict=True):
        for optimizer in ("adam", "amsgrad", "laprop"):
            line(axis, optimizer, errors[flip][optimizer])
        axis.set_title(f"{100 * flip:.0f} % of the labels wrong")
        axis.set_xlabel("ν")
    if 0.0 in flips:
        line_of_the_paper(axes[0], errors[0.0])
    axes[0].set_ylabel("error on clean test reviews, %")
    axes[0].legend()
    style.provenance(figure, results, "lr 0.002, µ 0.9; mean of the last 3 epochs, 95 % intervals")
    return figure


def line(axis: Axes, optimizer: str, errors: pd.DataFrame) -> None:
    """Draw the mean over seeds (rows) with its interval; the columns are at equal distances."""
    found = style.intervals(mean(errors[value]) for value in errors)
    places = range(errors.shape[1])
    style.band(axis, places, found, marker=".", markersize=4, **style.line(optimizer))
    axis.set_xticks(places, [f"{value:g}" for value in errors], rotation=45, fontsize=7)


def line_of_the_paper(axis: Axes, errors: pd.DataFrame) -> None:
    """The error of LaProp at nu 0 if it were GAIN points below the best of the others."""
    best = errors[["adam", "amsgrad"]].mean().min()
    axis.set_ylim(bottom=0)
    style.paper(axis, f"LaProp at ν 0,\n{GAIN} points below", y=best - GAIN, before=True)


# Claims -------------------------------------------------------------------------------------------


def cells(results: Results) -> pd.DataFrame:
    """Test errors in per cent: one row per seed, columns flip, optimizer, nu."""
    return 100 * results.runs.pivot(
        index="seed", columns=["flip", "optimizer", "nu"], values="test_error"
    ).sort_index(axis=1)


def imdb_zero_nu(results: Results, noisy: bool) -> Measured:
    """Whether every other optimizer and nu has a higher error than LaProp at nu 0."""
    table, text, lowest = cells(results), [], {}
    gaps: dict[tuple[Any, ...], Estimate] = {}
    for flip in sorted(set(table.columns.get_level_values("flip"))):
        if (flip > 0) != noisy:
            continue
        zero, others = table[flip]["laprop", 0.0], table[flip].drop(columns=[("laprop", 0.0)])
        gaps |= {(flip, *other): paired(others[other], zero) for other in others}
        best = others.mean().idxmin()
        lowest[flip] = gaps[flip, *best].centre
        text.append(
            f"noise {flip:g}: {zero.mean():.1f} %, lowest other {others[best].mean():.1f} % "
            f"({NAMES[best[0]]}, ν {best[1]:g}), difference {lowest[flip]:+.1f} points"
        )
    sure = sum(gap.low > 0 for gap in gaps.values())
    flip, optimizer, nu = min(gaps, key=lambda cell: gaps[cell].below())
    clearest = difference(of_many(gaps[flip, optimizer, nu], len(gaps)), "+.1f")
    where = f"{NAMES[optimizer]} at ν {nu:g} and noise {flip:g}"
    held = every_above(gaps.values())
    return Measured(
        f"error of LaProp at ν 0, {'; '.join(text)}; {sure} of the {len(gaps)} others have a "
        f"higher error by their intervals; the one with the clearest lower error, {where}, minus "
        f"LaProp's at ν 0: {clearest} points (interval for the clearest of {len(gaps)})",
        held,
        _others(lowest)
        + f", of {len(gaps)} comparisons most clearly {where}, by {_size(clearest)} points"
        * (held is False),
        [clearest],
    )


def of_many(gap: Estimate, number: int) -> Estimate:
    """A difference that was chosen from so many, with an interval that allows for the choice.

    All the intervals together contain the true differences with 95 % probability (Bonferroni).
    """
    return replace(gap, alpha=ALPHA / number)


def _others(lowest: dict[float, float]) -> str:
    """Where another optimizer or nu is better than LaProp at nu 0, and by how many points.

    Args:
        lowest: for each level of noise, the lowest other error minus that of LaProp at nu 0.
    """
    better = {flip: -gap for flip, gap in lowest.items() if gap < 0}
    if not better:
        return f"no other optimizer or ν has a lower error, at {len(lowest)} levels of noise"
    noise, points = (
        " and ".join([", ".join(cells[:-1]), cells[-1]] if cells[1:] else cells)
        for cells in ([f"{flip:g}" for flip in better], [f"{gap:.1f}" for gap in better.values()])
    )
    return f"at noise {noise} another optimizer or ν has an error {points} points lower"


def gained(gain: Estimate) -> str:
    """What LaProp gains over another optimizer, and what the paper reports, in words."""
    where = "lower" if gain.centre >= 0 else "higher"
    return f"{_size(gain)} points {where}, where the paper reports {GAIN} points lower"


def _size(gap: Estimate | Effect) -> str:
    """A difference and its interval without the sign, for a sentence that names the direction."""
    centre, low, high = magnitude(gap.centre, gap.low, gap.high)
    return f"{centre:.1f} {interval(low, high, '.1f')}"


def imdb_ten_points(results: Results) -> Measured:
    """Whether without noise Adam and AMSGrad are at every nu GAIN points above LaProp at nu 0."""
    errors = cells(results)[0.0]
    others = errors[["adam", "amsgrad"]]
    gains = {other: paired(others[other], errors["laprop", 0.0]) for other in others}
    best = others.mean().idxmin()
    chosen = of_many(gains[best], len(gains))
    gain = difference(chosen, "+.1f")
    return Measured(
        "error without label noise: LaProp at ν 0 "
        f"{errors['laprop', 0.0].mean():.1f} %, lowest of the others {others[best].mean():.1f} % "
        f"({NAMES[best[0]]}, ν {best[1]:g}); gain {gain} points (interval for the best of "
        f"{len(gains)})",
        every_above(gains.values(), GAIN),
        f"LaProp's error is {gained(chosen)}",
        [gain],
    )


def imdb_unstable(results: Results, optimizer: str) -> Measured:
    """Whether the error varies more over nu than LaProp's, as a mean over noise levels."""
    errors = cells(results)
    positive = errors.loc[:, errors.columns.get_level_values("nu") > 0]
    spread, without_zero = (
        table.T.groupby(level=["optimizer", "flip"]).std().groupby("optimizer").mean()
        for table in (errors, positive)
    )
    gap, rest = (paired(s.loc[optimizer], s.loc["laprop"]) for s in (spread, without_zero))
    own, ours = (spread.loc[o].mean() for o in (optimizer, "laprop"))
    return Measured(
        f"standard deviation of the error over ν, points: {NAMES[optimizer]} {own:.1f}, LaProp "
        f"{ours:.1f}, difference {difference(gap, '+.1f')}; without ν 0 {rest:+.1f}",
        every_above([gap]),
        f"{NAMES[optimizer]}'s standard deviation is {own / ours:.1f} times LaProp's; without ν 0 "
        f"the difference is {rest:+.1f} points",
        [difference(gap, "+.1f"), difference(rest, "+.1f")],
    )
