"""The paper's two simplest experiments in one picture, for the README."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.common.records import Results, load
from scripts.figures import fig02, style
from scripts.figures.fig01 import endings

SIGMA = 0.1


def finding(results: Results) -> str:
    """The title."""
    turned = {o: endings(_first(), o).turned for o in ("adam", "laprop")}
    return (
        f"Adam's loss rises again in {turned['adam'].sum()} of {len(turned['adam'])} runs, "
        f"LaProp's in {turned['laprop'].sum()} (left); noisy Rosenbrock, noise in "
        f"{fig02.RANGE['halfwidth']}: {fig02.converging(results, 'halfwidth')} (right)"
    )


def _first() -> Results:
    """Figure 1's results."""
    results = load("fig01")
    assert results is not None
    return results


def draw(results: Results) -> Figure:
    """Figure 1, a panel for each lr, and Figure 2 at one noise. ``results``: of Figure 2."""
    first = _first()
    rates = sorted(first.curves.lr.unique())
    figure, axes = plt.subplots(
        1, len(rates) + 1, figsize=(3 * len(rates) + 4, 3), width_ratios=[3] * len(rates) + [4]
    )
    *left, right = axes
    for axis, lr in zip(left, rates, strict=True):
        axis.sharey(left[0])
        for optimizer, cell in first.curves[first.curves.lr == lr].groupby("optimizer"):
            seeds = cell.pivot(index="step", columns="seed", values="train_loss")
            style.medians(axis, seeds, **style.line(str(optimizer)))
        axis.set(yscale="log", xlabel="updates", title=f"MNIST, µ 0.9, ν 0.7, lr {lr:g}")
        style.steps(axis)
        axis.tick_params(labelleft=axis is left[0])
    left[0].set_ylabel("training loss")

    runs = results.runs[(results.runs.noise == "halfwidth") & np.isclose(results.runs.sigma, SIGMA)]
    for optimizer, cell in runs.groupby("optimizer"):
        fig02.curve(right, cell, str(optimizer))
    right.set(yscale="log", ylim=(1e3, 1e5), xlim=(-0.02, 1))
    right.set(xlabel="ν", ylabel=fig02.UPDATES)
    right.set_title(f"noisy Rosenbrock, noise in {fig02.RANGE['halfwidth']}, σ {SIGMA:g}, lr 0.01")
    style.legend(figure, left[0], 3)
    style.below(
        figure,
        f"scale: paper; left {first.seeds}, right {results.seeds}; medians with "
        f"95 % intervals; right: {fig02.FIRST}; no mark: most seeds never converge; "
        f"{fig02.HOLLOW}; the other reading of σ, noise in {fig02.RANGE['width']}: "
        f"{fig02.converging(results, 'width')}",
    )
    return figure
