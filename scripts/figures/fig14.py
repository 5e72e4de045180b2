"""Figure 14: training curves of ResNet-20 on CIFAR-10 over mu and nu."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts.figures import style
from scripts.figures.fig04 import GUESSING
from scripts.figures.fig12 import OPTIMIZERS, onset
from scripts.paper import NAMES

TOP = 2 * GUESSING  # of the axis


def finding(results: Results) -> str:
    """The title."""
    epochs = onset(results)
    if epochs.empty:
        return "No training loss goes above that of guessing"
    early = epochs.groupby("optimizer").quantile(interpolation="lower")
    parts = [
        f"half of {NAMES[o]}'s diverging runs diverge by epoch {early[o]:.0f}"
        if o in early
        else f"no run of {NAMES[o]} diverges"
        for o in OPTIMIZERS
    ]
    text = "; ".join(parts)
    return text[0].upper() + text[1:]


def draw(results: Results) -> Figure:
    """Training loss of every run."""
    return curves(results, "train_loss", "training loss")


def curves(results: Results, column: str, name: str) -> Figure:
    """A panel per mu and optimizer, every run a thin line in the colour of its nu.

    Args:
        results: curves with columns optimizer, mu, nu, seed, step and ``column``.
        column: the number to show, on a logarithmic axis.
        name: its name.
    """
    every = results.curves
    mus, nus = sorted(every.mu.unique()), sorted(every.nu.unique())
    colour = dict(zip(nus, mpl.colormaps["viridis"](np.linspace(0, 0.9, len(nus))), strict=True))
    figure, axes = plt.subplots(
        len(OPTIMIZERS),
        len(mus),
        figsize=(1.7 * len(mus) + 0.8, 4.6),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for row, optimizer in zip(axes, OPTIMIZERS, strict=True):
        for axis, mu in zip(row, mus, strict=True):
            cell = every[(every.optimizer == optimizer) & (every.mu == mu)]
            for (nu, _), run in cell.groupby(["nu", "seed"]):
                axis.plot(run.step, run[column], color=colour[nu], linewidth=0.7)
            _ended(axis, cell, every.step.max(), column, colour)
            axis.axhline(GUESSING, color="#999999", linewidth=0.8, linestyle=":")
            axis.set(yscale="log")
            style.plain(axis.yaxis)
        row[0].set_ylabel(f"{NAMES[optimizer]}\n{name}")
    low = np.nanmin(every[column])
    axes[0, 0].set_ylim(0.8 * low, TOP)
    for axis, mu in zip(axes[0], mus, strict=True):
        axis.set_title(f"µ = {mu:g}")
    for axis in axes[-1]:
        axis.set_xlabel("epochs")
    handles = [plt.Line2D([], [], color=colour[nu], label=f"{nu:g}") for nu in nus]
    figure.legend(handles=handles, loc="outside right center", title="ν")
    style.provenance(
        figure, results, "dotted: guessing; ×: ended as diverged; number: seeds at once"
    )
    return figure


def _ended(
    axis: Axes, runs: pd.DataFrame, last: int, column: str, colour: dict[float, np.ndarray]
) -> None:
    """A cross where runs ended before the last epoch; seeds that ended together are counted."""
    ends = runs.sort_values("step").groupby(["nu", "seed"]).tail(1)
    ends = ends[ends.step < last]
    # The edge of the panel, once a loss left it; a run may also end without a number.
    ends = ends.assign(height=ends[column].fillna(TOP).clip(upper=TOP).round(3))
    for (step, height), there in ends.groupby(["step", "height"]):
        for place, (nu, seeds) in enumerate(there.groupby("nu").size().items()):
            # Crosses of several nu at one point stand side by side.
            for text, size, above in (("×", 11, -1), (f"{seeds}" * (seeds > 1), 7, 7)):
                axis.annotate(
                    text,
                    (step, height),
                    (8 * place, above),
                    textcoords="offset points",
                    ha="center",
                    va="center",
                    fontsize=size,
                    color=colour[nu],
                    annotation_clip=False,
                )
