"""Section 3.1, equation 8: the variance of an update on random gradients as nu goes to 0."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import mean
from scripts.figures import style
from scripts.paper import NAMES, Measured

STEEPER = 2.8  # at each tenfold fall of nu: root of 10, less a tenth
FROM = 1e-4  # nu at which the tenfold falls that count begin
EXACT_FROM = 1e-3  # smallest nu at which the mean square is not that of a few updates
NEAR = 0.05


def finding(results: Results) -> str:
    """The title."""
    return (
        f"Below ν {style.short(FROM)} each tenfold fall raises Adam's variance at least "
        f"{rises(results).min():.1f} times at every µ > 0; LaProp's stays bounded"
    )


def draw(results: Results) -> Figure:
    """Variance against nu: Adam's and LaProp's, measured and exact."""
    runs = results.runs
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    mus = sorted(runs.mu.unique())
    for axis, optimizer in zip(axes, ("adam", "laprop"), strict=True):
        for mu, alpha in zip(mus, np.linspace(0.35, 1, len(mus)), strict=True):
            by = runs[(runs.optimizer == optimizer) & (runs.mu == mu)].groupby("nu")
            found = style.intervals(mean(values) for _, values in by.variance)
            look = {"color": style.COLOUR[optimizer], "alpha": alpha}
            style.errorbars(axis, list(by.groups), found, fmt="o", markersize=3.5, **look)
            axis.plot(by.variance_exact.first(), label=f"µ {mu:g}", linewidth=1, **look)
        axis.set(xscale="log", yscale="log", xlabel="ν", title=NAMES[optimizer])
        axis.legend()
    axes[0].set_ylabel("variance of an update / learning rate²")
    style.provenance(
        figure,
        results,
        "lines: derived; marks: mean with 95 % intervals, for Adam below ν 1e-3 mostly too low, "
        "since a few large updates decide",
    )
    return figure


# Claims -------------------------------------------------------------------------------------------


def means(results: Results, optimizer: str) -> pd.DataFrame:
    """Mean variance over seeds: a row per mu, a column per nu."""
    runs = results.runs[results.runs.optimizer == optimizer]
    return runs.groupby(["mu", "nu"]).variance.mean().unstack("nu")


def rises(results: Results) -> pd.DataFrame:
    """Adam's variance over that at a tenfold nu, for mu above 0, at nu up to FROM."""
    table = means(results, "adam")
    nu = table.columns[table.columns <= FROM * (1 + 1e-9)]
    table = table.loc[table.index > 0, nu]
    return (table / table.shift(-1, axis=1)).iloc[:, :-1].stack()


def adam_variance_unbounded(results: Results) -> Measured:
    """Adam's variance rises about as 1/sqrt(nu) as nu falls."""
    found = rises(results)
    largest = means(results, "adam").max(axis=None)
    text = ", ".join(
        f"µ {mu:g}: {cell.min():.2f} to {cell.max():.2f}" for mu, cell in found.groupby("mu")
    )
    return Measured(
        f"Adam's variance over that at ten times the ν, up to ν {FROM:g}, {text}; largest "
        f"variance {largest:.3g} lr^2",
        bool((found >= STEEPER).all()),
        f"the variance rises at least {found.min():.2f} times; the claim needs {STEEPER:g}",
    )


def laprop_variance_bounded(results: Results) -> Measured:
    """LaProp's variance agrees at the two smallest nu, and is nowhere above the bound."""
    table = means(results, "laprop")
    change = (table.iloc[:, 0] / table.iloc[:, 1] - 1).abs().max()
    mu, nu = table.index.to_numpy()[:, None], table.columns.to_numpy()
    share = (table / ((1 - mu) / (1 + mu) / (1 - nu))).max(axis=None)
    return Measured(
        f"between ν {table.columns[0]:g} and {table.columns[1]:g} LaProp's variance changes by at "
        f"most {change:.2%}; it reaches {share:.3f} of (1-µ)/(1+µ)/(1-ν)",
        bool(change <= NEAR and share <= 1 + NEAR),
        f"the variance is at most {share:.3f} of the bound; the claim allows {1 + NEAR:g}",
    )


def variance_formula(results: Results) -> Measured:
    """The mean variance over seeds agrees with the derived value."""
    runs = results.runs[results.runs.nu >= EXACT_FROM * (1 - 1e-9)]
    by = runs.groupby(["optimizer", "mu", "nu"])
    gap = (by.variance.mean() / by.variance_exact.first() - 1).abs()
    text = ", ".join(f"{NAMES[o]} {cell.max():.2%}" for o, cell in gap.groupby("optimizer"))
    return Measured(
        f"largest deviation from the formula at ν of at least {EXACT_FROM:g}: {text}",
        bool(gap.max() <= 0.1),
        f"the variance differs from the formula by at most {gap.max():.2%}; the claim allows 10 %",
    )
