"""Figure 12: test accuracy of ResNet-20 on CIFAR-10 over mu and nu."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from experiments.common.records import Results
from scripts.claims.fig12 import outcomes
from scripts.figures import style

OPTIMIZERS = ("laprop", "adam")


def draw(results: Results) -> Figure:
    """A map for each optimizer, in per cent."""
    return maps(results, {"test_accuracy": "test accuracy, %"}, 100, "{:.1f}", "cividis")


def maps(
    results: Results, columns: dict[str, str], scale: float, number: str, colours: str
) -> Figure:
    """A row of maps, nu by mu, for each column: one map per optimizer, on a common scale.

    Args:
        results: runs with columns optimizer, mu, nu, seed, train_loss and ``columns``.
        columns: numbers to show and their names.
        scale: factor before they are shown.
        number: format of a cell's mean over its seeds that did not diverge.
        colours: matplotlib's colour map.
    """
    runs = outcomes(results)
    shape = (runs.nu.nunique(), runs.mu.nunique())
    figure, axes = plt.subplots(
        len(columns),
        len(OPTIMIZERS),
        figsize=(
            1.3 + len(OPTIMIZERS) * 0.62 * shape[1] + 0.6,
            0.9 + len(columns) * 0.38 * shape[0] + 0.6,
        ),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for row, (column, name) in zip(axes, columns.items(), strict=True):
        stable = runs[~runs.diverged]
        mean = stable.groupby(["optimizer", "mu", "nu"])[column].mean() * scale
        # The worst cells would leave one colour for all the others.
        low, high = np.nanquantile(mean, [0.05, 0.95])
        for axis, optimizer in zip(row, OPTIMIZERS, strict=True):
            cells = runs[runs.optimizer == optimizer].groupby(["nu", "mu"])
            diverged = cells.diverged.agg(["sum", "size"])
            table = diverged.join(mean[optimizer].rename("mean"))
            image = _map(axis, table, low, high, number, colours)
            axis.set_title(style.NAME[optimizer])
        row[0].set_ylabel("ν")
        figure.colorbar(image, ax=row, label=name, extend="both")
    for axis in axes[-1]:
        axis.set_xlabel("µ")
    style.provenance(figure, results, "×: all seeds diverged, × n: n of them; last epochs' mean")
    return figure


def _map(
    axis: plt.Axes, table: pd.DataFrame, low: float, high: float, number: str, colours: str
) -> AxesImage:
    grid = table["mean"].unstack("mu")
    image = axis.imshow(grid, cmap=colours, vmin=low, vmax=high, aspect="auto", origin="lower")
    axis.grid(False)
    axis.set_xticks(range(len(grid.columns)), [f"{mu:g}" for mu in grid.columns])
    axis.set_yticks(range(len(grid.index)), [f"{nu:g}" for nu in grid.index])
    for (nu, mu), cell in table.iterrows():
        lines = [] if np.isnan(cell["mean"]) else [number.format(cell["mean"])]
        if cell["sum"]:
            lines.append("×" if cell["sum"] == cell["size"] else f"× {cell['sum']:.0f}")
        red, green, blue, _ = image.cmap(image.norm(cell["mean"]))
        dark = np.isfinite(cell["mean"]) and 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        axis.text(
            list(grid.columns).index(mu),
            list(grid.index).index(nu),
            "\n".join(lines),
            ha="center",
            va="center",
            fontsize=6.5,
            color="white" if dark else "black",
        )
    return image
