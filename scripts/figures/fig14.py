"""Figure 14: training curves of ResNet-20 on CIFAR-10 over mu and nu."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

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
    parts = []
    for optimizer in OPTIMIZERS:
        own = epochs[epochs.index.get_level_values("optimizer") == optimizer]
        if own.empty:
            parts.append(f"no run of {NAMES[optimizer]} diverges")
            continue
        half = own.quantile(interpolation="lower")
        when = "in the first epoch" if half <= 1 else f"by epoch {half:.0f}"
        early = f"{(own <= half).sum()} of {NAMES[optimizer]}'s {len(own)} diverging runs"
        parts.append(f"{early} diverge {when}")
    text = "; ".join(parts)
    return text[0].upper() + text[1:]


def draw(results: Results) -> Figure:
    """Training loss of every run."""
    return curves(results, "train_loss", "training loss")


def curves(results: Results, column: str, name: str) -> Figure:
    """A panel per mu and optimizer: runs are thin lines in the colour of their nu, means thick.

    A cell has no mean where one of its seeds diverged.

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
            for nu, runs in cell.groupby("nu"):
                seeds = runs.pivot(index="step", columns="seed", values=column)
                axis.plot(seeds, color=colour[nu], linewidth=0.5, alpha=0.5)
                if seeds.notna().all(axis=None) and seeds.index[-1] == every.step.max():
                    axis.plot(seeds.mean(axis=1), color=colour[nu], linewidth=1.3)
            _ended(axis, cell, every.step.max(), column, colour)
            axis.axhline(GUESSING, color="#999999", linewidth=0.8, linestyle=":")
            axis.set(yscale="log")
            axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
        row[0].set_ylabel(f"{NAMES[optimizer]}\n{name}")
    low = np.nanmin(every[column])
    axes[0, 0].set_ylim(0.8 * low, TOP)
    for axis in axes[:, 0]:
        style.plain(axis.yaxis, (1, 2, 5) if 10 * low < TOP else (1, 1.5, 2, 3, 4))
    for axis, mu in zip(axes[0], mus, strict=True):
        axis.set_title(f"µ {mu:g}")
    for axis in axes[-1]:
        axis.set_xlabel("epochs")
    handles = [Line2D([], [], color=colour[nu], label=f"{nu:g}") for nu in nus]
    figure.legend(handles=handles, loc="outside right center", title="ν")
    note = "thin: seeds, thick: mean; dotted: guessing; ×: a seed that ended as diverged"
    style.provenance(figure, results, note)
    return figure


def _ended(
    axis: Axes, runs: pd.DataFrame, last: int, column: str, colour: dict[float, np.ndarray]
) -> None:
    """A cross for each run that ended before the last epoch; crosses at one point are stacked."""
    ends = runs.sort_values("step").groupby(["nu", "seed"]).tail(1)
    ends = ends[ends.step < last]
    # The edge of the panel, once a loss left it; a run may also end without a number.
    ends = ends.assign(height=ends[column].fillna(TOP).clip(upper=TOP).round(3))
    for (step, height), there in ends.groupby(["step", "height"]):
        for place, nu in enumerate(sorted(there.nu)):
            axis.annotate(
                "×",
                (step, height),
                (0, -1 - 7 * place),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=10,
                color=colour[nu],
                annotation_clip=False,
            )
