"""Figure 2: steps to converge on the noisy Rosenbrock function against nu, per noise level."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import median, proportion
from scripts.figures import style

READING = {
    "halfwidth": "noise in (−σ, σ), as stated",
    "width": "noise in (−σ/2, σ/2)",
}


def draw(results: Results) -> Figure:
    """Two readings of sigma, four noise levels each."""
    return panels(results, "sigma", "σ = {:g}", "noisy Rosenbrock, lr 0.01, µ 0.9")


def panels(results: Results, column: str, label: str, title: str) -> Figure:
    """Per reading of sigma a row of steps to converge and one of the share that converges.

    Args:
        results: runs with columns optimizer, nu, noise, seed, steps_to_converge and ``column``.
        column: what differs from left to right; its values go into ``label``.
        label: format of a column's heading.
        title: of the whole figure.
    """
    runs = results.runs
    values = sorted(runs[column].unique())
    last = results.manifest["settings"]["task.updates"]
    figure, axes = plt.subplots(
        4,
        len(values),
        figsize=(2.15 * len(values) + 0.8, 6.4),
        sharex=True,
        sharey="row",
        height_ratios=[3, 1, 3, 1],
        squeeze=False,
    )
    for pair, (noise, reading) in enumerate(READING.items()):
        for i, value in enumerate(values):
            steps, share = axes[2 * pair, i], axes[2 * pair + 1, i]
            chosen = runs[(runs.noise == noise) & (runs[column] == value)]
            for optimizer, cell in chosen.groupby("optimizer"):
                _curve(steps, share, cell, str(optimizer))
            steps.set(yscale="log", ylim=(100, 1.3 * last))
            steps.axhline(last, color="#999999", linewidth=0.8, linestyle=":")
            share.set(ylim=(-0.08, 1.08), yticks=[0, 1])
            steps.set_title(label.format(value))
        axes[2 * pair, 0].set_ylabel(f"steps to converge\n{reading}")
        axes[2 * pair + 1, 0].set_ylabel("share of\nseeds")
    for axis in axes[-1]:
        axis.set_xlabel("ν")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, title=title)
    style.provenance(
        figure, results, "median of all seeds, those that never converge included; 95 % bands"
    )
    return figure


def _curve(steps: plt.Axes, share: plt.Axes, cell: pd.DataFrame, optimizer: str) -> None:
    by_nu = cell.groupby("nu").steps_to_converge
    nu = np.array(list(by_nu.groups))
    middle, low, high = np.array([median(v) for _, v in by_nu]).T
    top = 1e6  # an infinite end of a band is beyond the picture
    steps.plot(
        nu,
        np.where(np.isfinite(middle), middle, np.nan),
        marker=".",
        markersize=3,
        **style.line(optimizer),
    )
    shown = np.isfinite(low)
    steps.fill_between(
        nu,
        low,
        np.minimum(high, top),
        where=shown,
        color=style.COLOUR[optimizer],
        alpha=0.2,
        linewidth=0,
    )
    p, low, high = proportion(by_nu.count(), by_nu.size())
    share.plot(nu, p, **style.line(optimizer))
    share.fill_between(nu, low, high, color=style.COLOUR[optimizer], alpha=0.2, linewidth=0)
