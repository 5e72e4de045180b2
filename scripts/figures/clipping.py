"""B.1: training with and without gradient clipping, on ordinary and on exploding gradients."""

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from experiments.common.records import Results
from experiments.common.stats import Estimate, every_below, log_ratio
from scripts.effects import ratio
from scripts.figures import style
from scripts.paper import NAMES, Measured

MARGIN = 1.05


def finding(results: Results) -> str:
    """The title."""
    needs = {
        True: "needs no clipping",
        False: "needs clipping",
        None: "may or may not need clipping (undecided)",
    }
    ordinary, exploding = (needs[no_clipping(results, spikes).held] for spikes in (False, True))
    share = results.runs.spike_share.max()
    worst = {
        o: math.exp(max(log.centre for log in ratios(results, o, share).values()))
        for o in ("laprop", "adam")
    }
    return (
        f"On our MNIST net LaProp {ordinary} on ordinary gradients, {exploding} on exploding ones: "
        f"without it up to {worst['laprop']:.3g} times the loss (Adam {worst['adam']:.3g})"
    )


def draw(results: Results) -> Figure:
    """Ratio of the loss without clipping to that with it, for every seed and as a mean."""
    runs = results.runs
    shares, nus = (sorted(runs[column].unique()) for column in ("spike_share", "nu"))
    figure, axes = plt.subplots(1, len(shares), figsize=(4.2 * len(shares), 3.6), squeeze=False)
    for axis, share in zip(axes[0], shares, strict=True):
        labels: list[str] = []
        for optimizer in ("laprop", "adam"):
            for nu, found in ratios(results, optimizer, share).items():
                place = len(labels)
                labels.append(f"{NAMES[optimizer]}\nν {nu:g}")
                look: dict[str, Any] = {"fmt": "o", "capsize": 4, "color": style.COLOUR[optimizer]}
                style.errorbars(axis, place, np.exp(style.intervals([found])), **look)
        axis.axhline(1, color="#999999", linewidth=0.8)
        axis.axhline(MARGIN, color="#999999", linestyle=":", linewidth=1)
        axis.set(yscale="log", title=f"{100 * share:.0f} % of the gradients explode" if share else
                 "ordinary gradients")  # fmt: skip
        # Less than a decade: powers of ten would leave one tick.
        axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xticks(range(len(labels)), labels)
        axis.set_xlim(-0.5, 2 * len(nus) - 0.5)
    axes[0, 0].set_ylabel("final loss without clipping / with it")
    note = f"geometric mean over seeds with 95 % intervals; dotted: the margin of {MARGIN:g}"
    style.provenance(figure, results, note)
    return figure


# Claims -------------------------------------------------------------------------------------------


def ratios(results: Results, optimizer: str, share: float) -> dict[float, Estimate]:
    """Final loss without clipping over that with it, by nu."""
    runs = results.runs[results.runs.optimizer == optimizer]
    cells = runs[runs.spike_share == share].pivot(
        index=["nu", "seed"], columns="clip", values="final_loss"
    )
    return {float(nu): log_ratio(cell[0], cell[1]) for nu, cell in cells.groupby("nu")}


def no_clipping(results: Results, exploding: bool) -> Measured:
    """Whether LaProp without clipping is worse by less than the margin at every nu."""
    share = results.runs.spike_share.max() if exploding else 0
    by = {o: ratios(results, o, share) for o in ("laprop", "adam")}
    cells = by["laprop"].values()
    text = "; ".join(
        f"{NAMES[o]} " + ", ".join(f"{ratio(r)} at ν {nu:g}" for nu, r in found.items())
        for o, found in by.items()
    )
    worst = math.exp(max(cell.centre for cell in cells))
    return Measured(
        f"final loss without clipping over that with it: {text}",
        every_below(cells, math.log(MARGIN)),
        f"without clipping the loss is at most {worst:.3f} times as high; the claim allows "
        f"{MARGIN:g}",
        [ratio(r) for found in by.values() for r in found.values()],
    )
