"""Table 1, measured: how the paths of Adam and LaProp close in on the methods they become."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts.figures import style

LIMIT = {
    "mu_0": ("µ → 0: RMSProp", "µ"),
    "nu_0": ("ν → 0: signed SGD with momentum", "ν"),
    "both_0": ("µ, ν → 0: signed SGD", "µ = ν"),
    "nu_1": ("ν → 1, warm n: SGD with momentum", "1 − ν"),
    "nu_1_cold": ("ν → 1, n from 0: n the mean of all g²", "1 − ν"),
    "mu_1": ("µ → 1: m the mean of all steps", "1 − µ"),
}


def draw(results: Results) -> Figure:
    """A panel per limit: distance of the paths against the distance from the limit."""
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.6))
    for axis, (limit, (title, symbol)) in zip(axes.flat, LIMIT.items(), strict=True):
        chosen = results.runs[results.runs.limit == limit]
        for optimizer, cell in chosen.groupby("optimizer"):
            by = cell.groupby("distance").path_distance
            x = np.array(list(by.groups))
            look = style.line(str(optimizer))
            axis.plot(x, by.median(), marker="o", markersize=3.5, **look)
            axis.fill_between(x, by.min(), by.max(), color=look["color"], alpha=0.2, linewidth=0)
        axis.set(xscale="log", yscale="log", title=title, xlabel=symbol)
        axis.invert_xaxis()
    axes[0, 1].axhline(1, color="#999999", linewidth=0.8)
    axes[0, 1].annotate("length of the path", (0.1, 1), (0, 3), textcoords="offset points",
                        fontsize=7, color="#666666")  # fmt: skip
    for axis in axes[:, 0]:
        axis.set_ylabel("distance of the paths / length")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    settings = results.manifest["settings"]
    style.provenance(
        figure,
        results,
        f"softmax regression on MNIST, {settings['task.updates']} updates; the other of µ and ν "
        f"is {settings['optimizer.mu']:g}; median, range over seeds",
    )
    return figure
