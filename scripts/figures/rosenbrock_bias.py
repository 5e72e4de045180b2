"""Where the noise leads: the mean gradient and the mean sign of the gradient vanish elsewhere."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.rosenbrock import loss
from scripts.figures import style
from scripts.figures.fig02 import RANGE
from scripts.paper import NAMES

MARK = {"adam": "s", "amsgrad": "^", "laprop": "o"}


def finding(results: Results) -> str:
    """The title."""
    runs, noise = results.runs, results.manifest["settings"]["task.noise"]
    strongest = runs[(runs.sigma == runs.sigma.max()) & (runs.optimizer == "laprop")]
    rest = strongest.groupby("nu").x_mean.mean()
    return (
        f"Noisy Rosenbrock, noise in {RANGE[noise]}, σ {runs.sigma.max():g}: the noise pulls "
        f"LaProp from the minimum at x = 1 to {rest.iloc[0]:.2f} at ν {rest.index[0]:g} and to "
        f"{rest.iloc[-1]:.2f} at ν {rest.index[-1]:g}"
    )


def draw(results: Results) -> Figure:
    """The plane with the resting places, and their x against the noise."""
    points = results.table("fixed_points")
    rest = results.runs.groupby(["optimizer", "nu", "sigma"], as_index=False)[
        ["x_mean", "y_mean"]
    ].mean()
    figure, (plane, against) = plt.subplots(1, 2, figsize=(9.6, 4.2), width_ratios=[1.1, 1])
    limit = results.manifest["settings"]["task.converged_below"]
    _plane(plane, points, rest, limit)
    _against(against, points, rest, limit)
    style.provenance(
        figure,
        results,
        "mean position over the last 2,000 of 10,000 updates; lr 0.01, µ 0.9; intervals over seeds "
        "are smaller than the marks; why: noise adds about 133 σ² x² to the expected loss, so its "
        "minimum, where the mean gradient is 0, moves; near x = 1 half of the gradients still have "
        "each sign",
    )
    return figure


def _plane(axis: Axes, points: pd.DataFrame, rest: pd.DataFrame, limit: float) -> None:
    """The zeros of mean gradient and mean sign, and the resting places, in the plane.

    Args:
        axis: where to draw.
        points: the zeros, by ``point`` and sigma.
        rest: the mean position of each cell.
        limit: a run has converged where its loss is below it.
    """
    x, y = np.meshgrid(np.linspace(0.1, 1.15, 400), np.linspace(-0.05, 1.2, 400))
    value = loss(torch.from_numpy(np.stack([x, y], -1))).numpy()
    levels = np.geomspace(1e-3, 100, 16)
    axis.contour(x, y, np.log(value), np.log(levels), colors="#D8D8D8", linewidths=0.6)
    axis.contourf(x, y, value, [0, limit], colors=["#E8F1E4"])
    mean = points[points.point == "mean gradient"].sort_values("sigma")
    axis.plot(mean.x, mean.y, color="black", linewidth=1, label="mean gradient is 0")
    for _, row in mean[mean.sigma.isin([0.02, 0.04, 0.06, 0.1, 0.16])].iterrows():
        axis.annotate(
            f"{row.sigma:g}", (row.x, row.y), (5, -9), textcoords="offset points", fontsize=7
        )
    sign = points[points.point == "mean sign"]
    axis.plot(sign.x, sign.y, "*", color="black", markersize=9, label="mean sign is 0, all σ")
    for optimizer, nu in (("adam", 0.999), ("amsgrad", 0.999), ("laprop", 0.999), ("laprop", 0.0)):
        chosen = rest[(rest.optimizer == optimizer) & (rest.nu == nu)]
        axis.plot(
            chosen.x_mean,
            chosen.y_mean,
            MARK[optimizer],
            color=style.COLOUR[optimizer],
            markerfacecolor=style.COLOUR[optimizer] if nu == 0 else "none",
            markersize=5,
            label=f"{NAMES[optimizer]}, ν {nu:g}",
        )
    axis.set(xlabel="x", ylabel="y", xlim=(0.1, 1.15), ylim=(-0.05, 1.2))
    axis.set_title("resting places; numbers: σ")
    axis.legend(loc="upper left", fontsize=7.5)


def _against(axis: Axes, points: pd.DataFrame, rest: pd.DataFrame, limit: float) -> None:
    """The x of the same against sigma; the arguments are those of :func:`_plane`."""
    for point, dash in (("mean gradient", "solid"), ("mean sign", (0, (4, 2)))):
        line = points[points.point == point].sort_values("sigma")
        axis.plot(
            line.sigma,
            line.x,
            color="black",
            linewidth=1,
            linestyle=dash,
            zorder=3,
            label=f"{point} is 0",
        )
    # On the valley floor y = x^2 the loss is (1 - x)^2.
    axis.axhspan(1 - limit**0.5, 1.06, color="#E8F1E4", zorder=0)
    axis.text(
        0.158, 0.69, f"converged: loss below {limit:g}", fontsize=7.5, color="#4A7A3A", ha="right"
    )
    nus = sorted(rest.nu.unique())
    for nu, alpha in zip(nus, np.linspace(1, 0.3, len(nus)), strict=True):
        chosen = rest[(rest.optimizer == "laprop") & (rest.nu == nu)].sort_values("sigma")
        axis.plot(
            chosen.sigma,
            chosen.x_mean,
            "o-",
            color=style.COLOUR["laprop"],
            alpha=alpha,
            markersize=4,
            label=f"LaProp, ν {nu:g}",
        )
    for optimizer in ("adam", "amsgrad"):
        chosen = rest[(rest.optimizer == optimizer) & (rest.nu == nus[-1])].sort_values("sigma")
        axis.plot(
            chosen.sigma,
            chosen.x_mean,
            MARK[optimizer],
            color=style.COLOUR[optimizer],
            markerfacecolor="none",
            markersize=5,
            label=f"{NAMES[optimizer]}, ν {nus[-1]:g}",
        )
    axis.set(xlabel="σ", ylabel="x", ylim=(0.15, 1.06), xlim=(0, None))
    axis.set_title("the smaller ν, the closer LaProp stays\nto the place where the mean sign is 0")
    axis.legend(loc="lower left", fontsize=7.5)
