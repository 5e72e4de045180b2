"""IMDB without label noise: error over the learning rate, the same grid for every optimizer."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import every_above, mean, paired
from scripts import words
from scripts.effects import difference
from scripts.figures import style
from scripts.figures.fig07 import GAIN, gained, line
from scripts.paper import NAMES, Measured


def finding(results: Results) -> str:
    """The title."""
    return "IMDB, test error with lr and ν tuned on one grid: " + ", ".join(
        f"{NAMES[o]} {mean(errors):.1f} %" for o, (_, errors) in sorted(tuned(results).items())
    )


def draw(results: Results) -> Figure:
    """Held out error by lr, a panel per nu; then the test error at the chosen lr and nu."""
    runs = results.runs
    nus = sorted(runs.nu.unique())
    figure, axes = plt.subplots(1, len(nus) + 1, figsize=(2.1 * (len(nus) + 1), 2.9))
    for axis in axes[1:-1]:  # not the last, whose intervals are short
        axis.sharey(axes[0])
        axis.tick_params(labelleft=False)
    for axis, nu in zip(axes, nus, strict=False):
        for optimizer in ("adam", "amsgrad", "laprop"):
            cell = runs[(runs.optimizer == optimizer) & (runs.nu == nu)]
            line(
                axis, optimizer, 100 * cell.pivot(index="seed", columns="lr", values="valid_error")
            )
        axis.set_title(f"ν {nu:g}")
        axis.set_xlabel("learning rate")
    axes[0].set_ylabel("error, %")
    axes[0].legend()
    last = axes[-1]
    names = []
    for place, (optimizer, ((lr, nu), errors)) in enumerate(sorted(tuned(results).items())):
        look: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 3}
        look["color"] = style.COLOUR[optimizer]
        style.errorbars(last, place, style.intervals([mean(errors)]), **look)
        names.append(f"{NAMES[optimizer]}\nlr {lr:g}\nν {nu:g}")
    last.set_xticks(range(len(names)), names, fontsize=6.5)
    last.set_xlim(-0.6, len(names) - 0.4)
    best = min(errors.mean() for o, (_, errors) in tuned(results).items() if o != "laprop")
    last.set_ylim(bottom=best - GAIN - 3)
    style.paper(last, f"LaProp, untuned,\n{GAIN} points below", y=best - GAIN)
    last.set_title("test reviews, as chosen")
    last.set_ylabel("error, %")
    style.provenance(
        figure,
        results,
        "µ 0.9; 95 % intervals; held out reviews, and in the last panel test reviews at the lr and "
        "ν that have the lowest held out error",
    )
    return figure


# Claims -------------------------------------------------------------------------------------------


def tuned(results: Results) -> dict[str, tuple[tuple[float, float], pd.Series]]:
    """Per optimizer the (lr, nu) of the lowest mean error on held out reviews, and its test errors.

    Those are in per cent, by seed.
    """
    found = {}
    for optimizer, runs in results.runs.groupby("optimizer"):
        chosen = runs.groupby(["lr", "nu"]).valid_error.mean().idxmin()
        errors = runs.set_index(["lr", "nu", "seed"]).sort_index().test_error.loc[chosen]
        found[str(optimizer)] = (chosen, 100 * errors)
    return found


def imdb_ten_points_tuned(results: Results) -> Measured:
    """Tuned Adam and tuned AMSGrad are GAIN points above tuned LaProp."""
    by = tuned(results)
    gains = {o: paired(by[o][1], by["laprop"][1]) for o in ("adam", "amsgrad")}

    def end(column: str, value: float) -> str:
        lowest, *others = sorted(results.runs[column].unique())
        ends = {lowest: ", the grid's lowest", others[-1]: ", the grid's highest"} if others else {}
        return words.greek(f"{column} {value:g}{ends.get(value, '')}")

    text = ", ".join(
        f"{NAMES[o]} {errors.mean():.1f} % ({end('lr', lr)}, {end('nu', nu)})"
        for o, ((lr, nu), errors) in sorted(by.items())
    )
    found = {o: difference(gain, "+.1f") for o, gain in gains.items()}
    more = ", ".join(f"over {NAMES[o]} {gain}" for o, gain in found.items())
    least = min(gains, key=lambda o: gains[o].centre)
    return Measured(f"test error without label noise: {text}; gain of LaProp {more} points",
                    every_above(gains.values(), GAIN),
                    f"beside {NAMES[least]}'s LaProp's error is {gained(gains[least])}",
                    [*found.values()])  # fmt: skip
