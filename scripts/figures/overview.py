"""The paper's two simplest experiments in one picture, for the README."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.common.records import Results, load
from experiments.common.stats import median
from scripts.figures import fig02, style
from scripts.figures.fig01 import endings

SIGMA = 0.1
OPTIMIZERS = ("adam", "amsgrad", "laprop")  # the order of the legend


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
    for optimizer in OPTIMIZERS:
        seeds = curves[curves.optimizer == optimizer].pivot(
            index="step", columns="seed", values="train_loss"
        )
        middle, low, high = np.array([median(row) for row in seeds.to_numpy()]).T
        left.plot(seeds.index, middle, **style.line(optimizer))
        left.fill_between(seeds.index, low, high, color=style.COLOUR[optimizer], alpha=0.2,
                          linewidth=0)  # fmt: skip
    left.set(yscale="log", xlabel="updates", ylabel="training loss")
    left.set_title(f"MNIST, µ 0.9, ν 0.7, lr {curves.lr.max():g}")

    runs = results.runs[(results.runs.noise == "halfwidth") & np.isclose(results.runs.sigma, SIGMA)]
    for optimizer in OPTIMIZERS:
        fig02.curve(right, runs[runs.optimizer == optimizer], optimizer)
    right.set(yscale="log", ylim=(1e3, 1e5), xlim=(-0.02, 1))
    right.set(xlabel="ν", ylabel="steps to converge")
    right.set_title(f"noisy Rosenbrock, σ {SIGMA:g}, µ 0.9, lr 0.01")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    style.below(
        figure,
        f"scale: paper; left {first.seeds}, right {results.seeds}; medians with 95 % intervals; "
        f"no mark: most seeds never converge; {fig02.HOLLOW}",
    )
    return figure
