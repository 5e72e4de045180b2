"""Theorem 1: regret on two online convex problems against the bounds."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.core.groupby import SeriesGroupBy

from experiments.common.records import Results
from scripts.figures import style

ROWS = (("rare", 1.0, "rare large gradients"), ("mnist", 0.1, "logistic regression, MNIST"))
NUS = (0.1, 0.5, 0.9)
BOUNDS = (
    ("laprop", "bound_run", (0, (4, 2)), "Theorem 1 along LaProp's run"),
    ("laprop", "bound_uniform", (0, (1, 1.5)), "Theorem 1 beforehand"),
    ("amsgrad", "bound_uniform", (0, (1, 1.5)), "AMSGrad's bound beforehand"),
)


def draw(results: Results) -> Figure:
    """A row per problem: regret against T at three nu, and the final regret over the bounds."""
    figure, axes = plt.subplots(2, 4, figsize=(11.6, 5.8), width_ratios=[1, 1, 1, 1.15])
    curves, runs = results.curves, results.runs
    for row, (problem, lr, title) in zip(axes, ROWS, strict=True):
        chosen = curves[(curves.problem == problem) & np.isclose(curves.lr, lr)]
        for axis, nu in zip(row[:-1], NUS, strict=True):
            _regret(axis, chosen[np.isclose(chosen.nu, nu)])
            axis.set_title(f"{title}, ν {nu:g}", fontsize=8.5)
        row[0].set_ylabel("R(T)")
        low = chosen[np.isin(chosen.nu, NUS) & (chosen.regret > 0)].regret.min()
        for axis in row[:-1]:
            axis.set_ylim(max(low, 0.5) / 2, None)
        _ratios(row[-1], runs[(runs.problem == problem) & np.isclose(runs.lr, lr)])
    for axis in axes[-1, :-1]:
        axis.set_xlabel("T")
    axes[-1, -1].set_xlabel("ν")
    handles, labels = axes[0, -2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    style.provenance(
        figure,
        results,
        "λ/√t with λ 1 (above) and 0.1 (below), µ 0.9·0.9^(t−1), box of side 2; "
        "median and range of seeds",
    )
    return figure


def _regret(axis: Axes, curves: pd.DataFrame) -> None:
    for optimizer in ("laprop", "amsprop", "amsgrad", "adam"):  # dashes above what they may hide
        seeds = curves[curves.optimizer == optimizer].groupby("step").regret
        middle = seeds.median()
        axis.plot(middle.index, middle.where(middle > 0), **style.line(optimizer))
        _range(axis, seeds, optimizer)
    for optimizer, bound, dash, label in BOUNDS:
        middle = curves[curves.optimizer == optimizer].groupby("step")[bound].median()
        axis.plot(
            middle.index,
            middle,
            color=style.COLOUR[optimizer],
            linestyle=dash,
            linewidth=1.1,
            label=label,
        )
    axis.set(xscale="log", yscale="log")


def _range(axis: Axes, seeds: SeriesGroupBy, optimizer: str) -> None:
    low, high = seeds.min(), seeds.max()
    shown = low > 0  # the axis is logarithmic
    colour = style.COLOUR[optimizer]
    axis.fill_between(low.index, low, high, where=shown, color=colour, alpha=0.2, linewidth=0)


def _ratios(axis: Axes, runs: pd.DataFrame) -> None:
    kinds = (
        ("laprop", "bound_run", (0, (4, 2))),
        ("laprop", "bound_uniform", (0, (1, 1.5))),
        ("amsprop", "bound_run", (0, (4, 2))),
        ("amsprop", "bound_uniform", (0, (1, 1.5))),
    )
    for optimizer, bound, dash in kinds:
        cell = runs[runs.optimizer == optimizer]
        seeds = (cell.regret / cell[bound]).groupby(cell.nu)
        _range(axis, seeds, optimizer)
        ratio = seeds.median()
        axis.plot(
            ratio.index,
            ratio,
            color=style.COLOUR[optimizer],
            linestyle=dash,
            marker=".",
            label=f"{style.NAME[optimizer]}, {'along' if bound == 'bound_run' else 'beforehand'}",
        )
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(yscale="log")
    axis.set_title("final R(T) over Theorem 1", fontsize=8.5)
    axis.legend(fontsize=7)
