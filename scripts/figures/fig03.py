"""Figure 3: regret of neural style transfer against nu, the first 120 updates, the pictures."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from experiments.common.records import Results
from scripts.claims.fig03 import FIRST
from scripts.figures import style

SHOWN = (0.0, 0.2, 0.4, 0.7, 0.9, 0.999)  # values of nu whose curves and pictures are shown


def draw(results: Results) -> Figure:
    """Regret against nu, a panel of curves per optimizer, and the final pictures."""
    optimizers = _optimizers(results)
    figure, axes = plt.subplot_mosaic(
        [["regret", *optimizers]] + [[f"{o} pictures"] * (1 + len(optimizers)) for o in optimizers],
        figsize=(10.5, 3.4 + 1.25 * len(optimizers)),
        width_ratios=[1.4] + [1] * len(optimizers),
        height_ratios=[2.7] + [1] * len(optimizers),
    )
    regret(axes["regret"], results.runs)
    axes["regret"].legend()
    axes["regret"].set_ylabel("mean loss of all updates, R(T)/T")
    curves = results.curves
    black = curves[(curves.seed == 0) & (curves.step <= FIRST)]
    start = black[black.step == 1].loss.max()
    for optimizer in optimizers:
        axis = axes[optimizer]
        _first(axis, black[black.optimizer == optimizer])
        axis.set_title(style.NAME[optimizer])
        axis.set_ylim(0.8 * black.loss.min(), 1.3 * start)
        if optimizer != optimizers[0]:
            axis.tick_params(labelleft=False)
    axes[optimizers[0]].set_ylabel("loss")
    axes[optimizers[-1]].legend(title="ν", fontsize=7, ncols=2, loc="upper right")
    for optimizer in optimizers:
        _pictures(axes[f"{optimizer} pictures"], results, optimizer)
        axes[f"{optimizer} pictures"].tick_params(labelbottom=optimizer == optimizers[-1])
    style.provenance(figure, results, note(results, "lr 0.01, µ 0.9"))
    return figure


def note(results: Results, setting: str) -> str:
    """What the provenance line adds: weights, setting, and what the band is."""
    (weights,) = results.runs.weights.unique()
    band = (
        "; line: black start, band: lowest to highest over starts with invisible noise"
        if results.runs.seed.nunique() > 1
        else "; black start"
    )
    return f"T {results.manifest['settings']['task.updates']}, {weights} weights, {setting}{band}"


def regret(axis: Axes, runs: pd.DataFrame) -> None:
    """R(T)/T against nu: the black start, in the band of all starts; four times the lowest at most.

    Args:
        axis: to draw on.
        runs: with columns optimizer, nu, seed, regret.
    """
    values = sorted(runs.nu.unique())
    places = np.arange(len(values))  # the values crowd towards 1
    lowest = runs.regret.min()
    bottom, top = 0.9 * lowest, 4 * lowest
    axis.set(yscale="log", ylim=(bottom, top))
    style.digits(axis)
    for optimizer, cell in runs.groupby("optimizer"):
        table = cell.pivot_table(index="nu", columns="seed", values="regret").reindex(values)
        axis.plot(places, table[0], marker=".", markersize=4, **style.line(str(optimizer)))
        axis.fill_between(
            places,
            table.min(axis=1),
            table.max(axis=1),
            color=style.COLOUR[str(optimizer)],
            alpha=0.2,
            linewidth=0,
        )
        for place, value in zip(places, table[0], strict=True):
            if value > top:
                look = {"fontsize": 7, "color": style.COLOUR[str(optimizer)], "va": "bottom"}
                number = f"{value:,.0f}" if value < 1e4 else f"{value / 1e3:,.0f}k"
                axis.text(place, top, f"↑ {number}", **look)
    axis.set_xticks(places, [f"{nu:g}" for nu in values], fontsize=7, rotation=45)
    axis.set_xlabel("ν")


def _optimizers(results: Results) -> list[str]:
    return [o for o in ("laprop", "adam", "amsgrad") if o in set(results.runs.optimizer)]


def _first(axis: Axes, curves: pd.DataFrame) -> None:
    """The first updates' losses of one optimizer, one curve per shown nu."""
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(SHOWN)))
    for nu, colour in zip(SHOWN, colours, strict=True):
        curve = curves[np.isclose(curves.nu, nu)]
        axis.plot(curve.step, curve.loss, color=colour, linewidth=1, label=f"{nu:g}")
    axis.set(yscale="log", xlabel="update", xlim=(0, FIRST))
    style.digits(axis)


def _pictures(axis: Axes, results: Results, optimizer: str) -> None:
    """The final pictures of one optimizer at every nu, from its run's montage."""
    (run,) = (r for r in results.manifest["runs"] if r["optimizer"] == optimizer)
    with Image.open(results.folder / f"{run['key']}-montage.jpg") as montage:
        pixels = np.asarray(montage)
    values = results.runs[results.runs.optimizer == optimizer].nu.unique()
    width = pixels.shape[1] / len(values)
    axis.imshow(pixels)
    places = width * (np.arange(len(values)) + 0.5)
    axis.set_xticks(places, [f"ν {nu:g}" for nu in values], fontsize=7)
    axis.set_yticks([])
    axis.set_ylabel(style.NAME[optimizer])
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)
