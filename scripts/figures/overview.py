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
    turned, lr = {}, _first().runs.lr.max()
    for optimizer in ("adam", "laprop"):
        turned[optimizer] = endings(_first(), optimizer).turned[lr]
    return (
        f"Adam's loss rises again in {turned['adam'].sum()} of {len(turned['adam'])} runs, "
        f"LaProp's in {turned['laprop'].sum()} (left); noise in "
        f"{fig02.converging(results, 'halfwidth')} (right)"
    )


def _first() -> Results:
    """Figure 1's results."""
    results = load("fig01")
    assert results is not None
    return results


def draw(results: Results) -> Figure:
    """Figure 1 at its larger learning rate, and Figure 2 at one noise. ``results``: of Figure 2."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
    first = _first()
    curves = first.curves[first.curves.lr == first.curves.lr.max()]
    for optimizer, cell in curves.groupby("optimizer"):
        seeds = cell.pivot(index="step", columns="seed", values="train_loss")
        style.medians(left, seeds, **style.line(str(optimizer)))
    left.set(yscale="log", xlabel="updates", ylabel="training loss")
    left.set_title(f"MNIST, µ 0.9, ν 0.7, lr {curves.lr.max():g}")

    runs = results.runs[(results.runs.noise == "halfwidth") & np.isclose(results.runs.sigma, SIGMA)]
    for optimizer, cell in runs.groupby("optimizer"):
        fig02.curve(right, cell, str(optimizer))
    right.set(yscale="log", ylim=(1e3, 1e5), xlim=(-0.02, 1))
    right.set(xlabel="ν", ylabel="steps to converge")
    right.set_title(f"noisy Rosenbrock, σ {SIGMA:g}, µ 0.9, lr 0.01")
    style.legend(figure, left, 3)
    style.below(
        figure,
        f"scale: paper; left {first.seeds}, one of two lr; right {results.seeds}; medians with "
        f"95 % intervals; right: {fig02.FIRST}; no mark: most seeds never converge; "
        f"{fig02.HOLLOW}; "
        f"with noise in {fig02.converging(results, 'width')}",
    )
    return figure
