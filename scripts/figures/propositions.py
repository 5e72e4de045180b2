"""Propositions 1 and 2: the largest updates that adversarial gradients get, and the bounds."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.records import Results
from laprop import bounds
from scripts.figures import style

SHADE = {0.0: "#88CCEE", 0.5: "#44AA99", 0.9: "#332288", 0.99: "#882255"}  # one per mu
GROWTH = ((0.9, 0.7), (0.9, 0.8), (0.9, 0.85))  # (mu, nu): two without a bound, one with


def draw(results: Results) -> Figure:
    """LaProp against Proposition 1, Adam against Proposition 2, Adam without a bound."""
    figure, (one, two, growth) = plt.subplots(1, 3, figsize=(10.8, 4.0))
    _laprop(one, results)
    _adam(two, results)
    _growth(growth, results)
    style.provenance(
        figure,
        results,
        "circles: constructed sequences of 20,000 gradients; crosses: the best of gradient ascent "
        "over 60 gradients",
    )
    return figure


def _reached(axis: Axes, results: Results, optimizer: str, sequence: str) -> None:
    runs = results.runs[results.runs.optimizer == optimizer]
    for mu, colour in SHADE.items():
        for chosen, mark in ((sequence, "o"), ("searched", "x")):
            cell = runs[(runs.sequence == chosen) & (runs.mu == mu)]
            if optimizer == "adam":
                cell = cell[(cell.mu < np.sqrt(cell.nu)) | (cell.mu == 0)]
            best = cell.groupby("nu")["update"].max()
            axis.plot(
                1 / (1 - best.index),
                best,
                mark,
                markersize=4,
                color=colour,
                markerfacecolor="none",
                label=f"µ {mu:g}" if mark == "o" else None,
            )
    axis.set(xscale="log", yscale="log", xlabel="1 / (1 − ν)")


def _laprop(axis: Axes, results: Results) -> None:
    nu = 1 - np.logspace(0, -3, 100)
    bound = [bounds.proposition1(n) for n in nu]
    axis.plot(1 / (1 - nu), bound, color="black", label="1/√(1−ν)", linewidth=1)
    _reached(axis, results, "laprop", "laprop_worst")
    axis.set(title="LaProp and Proposition 1", ylabel="largest update / λ", ylim=(0.7, 50))
    axis.legend(fontsize=7.5)


def _adam(axis: Axes, results: Results) -> None:
    for mu in (0.0, 0.5, 0.9):
        nu = 1 - np.logspace(0, -3, 300)
        nu = nu[(nu > mu**2) | (mu == 0)]
        x, shade = 1 / (1 - nu), SHADE[mu]
        printed = [bounds.proposition2_printed(mu, n) for n in nu]
        proved = [bounds.proposition2(mu, n) for n in nu]
        axis.plot(x, printed, color=shade, linestyle=(0, (4, 2)), linewidth=1)
        axis.plot(x, proved, color=shade, linewidth=1)
    axis.plot([], [], color="black", linewidth=1, label="1/((1−γ)√(1−ν)), as proved")
    axis.plot([], [], color="black", linewidth=1, linestyle=(0, (4, 2)), label="1/(1−γ), printed")
    _reached(axis, results, "adam", "adam_worst")
    axis.set(title="Adam, µ < √ν, and Proposition 2", ylim=(0.7, 5000))
    axis.legend(fontsize=7.5, ncols=2, loc="upper left", frameon=True, edgecolor="none")


def _growth(axis: Axes, results: Results) -> None:
    curves = results.curves
    curves = curves[(curves.sequence == "adam_worst") & (curves.seed == curves.seed.min())]
    dashes = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)))
    for (mu, nu), dash in zip(GROWTH, dashes, strict=True):
        for optimizer in ("adam", "laprop"):
            cell = curves[
                (curves.optimizer == optimizer)
                & np.isclose(curves.mu, mu)
                & np.isclose(curves.nu, nu)
            ].sort_values("step")
            axis.plot(
                cell.step,
                cell.log10_update,
                color=style.COLOUR[optimizer],
                linestyle=dash,
                label=f"{style.NAME[optimizer]}, ν {nu:g} (γ {mu / np.sqrt(nu):.2f})",
            )
    axis.set(
        xlim=(1, 300),
        ylim=(-1, 14),
        xlabel="step",
        ylabel="log₁₀ (update / λ)",
        title="the same gradients (ν/µ)^t, µ 0.9",
    )
    axis.legend(fontsize=7.5)
