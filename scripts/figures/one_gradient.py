"""Section 2.3: what one exploding gradient amid steady ones does to the direction of an update."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from experiments.common.records import Results
from scripts.figures import style
from scripts.paper import NAMES, Measured

MU, NUS = 0.9, (0.9, 0.98, 0.999)  # of the curves
RECOMMENDED = ((0.8, 0.9), (0.95, 0.999))  # mu and nu of section 3.2
DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)))


def finding(results: Results) -> str:
    """The title."""
    kept, adam = recommended(results) > 0, recommended_adam(results) > 0
    return (
        "One exploding gradient of the opposite sign reverses LaProp's update at "
        f"{(~kept).sum()} of the {len(kept)} pairs of µ and ν that the paper recommends, Adam's at "
        + (f"all {len(adam)}" if not adam.any() else f"{(~adam).sum()}")
    )


def draw(results: Results) -> Figure:
    """Maps of the update at the exploding gradient, and the updates that follow it."""
    figure, axes = plt.subplots(1, 3, figsize=(10.4, 4), width_ratios=[1, 1, 1.15], squeeze=False)
    for axis, optimizer in zip(axes[0], ("laprop", "adam"), strict=False):
        image = _map(axis, after(results, optimizer).unstack("mu"))
        axis.set_title(NAMES[optimizer])
    axes[0, 0].set_ylabel("ν")
    figure.colorbar(image, ax=axes[0, :2], label="update / learning rate", extend="min")
    _curves(axes[0, 2], results)
    style.provenance(
        figure,
        results,
        "before the exploding gradient an update is 1 learning rate; maps: the update at that "
        "gradient, the lowest over all its sizes; box: the pairs that the paper recommends",
    )
    return figure


def _map(axis: Axes, table: pd.DataFrame) -> AxesImage:
    image = axis.imshow(table, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", origin="lower")
    axis.grid(False)
    axis.set_xticks(range(len(table.columns)), [f"{mu:g}" for mu in table.columns])
    axis.set_yticks(range(len(table.index)), [f"{nu:g}" for nu in table.index])
    axis.set_xlabel("µ")
    for (i, j), value in np.ndenumerate(table.to_numpy()):
        colour = "white" if abs(value) > 0.6 else "black"
        axis.text(
            j,
            i,
            f"{round(value, 3) + 0.0:.2g}",
            ha="center",
            va="center",
            fontsize=6.5,
            color=colour,
        )
    boxed = _recommended(table.stack()).unstack("mu")
    left, low = list(table.columns).index(boxed.columns[0]), list(table.index).index(boxed.index[0])
    shape = (len(boxed.columns), len(boxed.index))
    axis.add_patch(Rectangle((left - 0.5, low - 0.5), *shape, fill=False, linewidth=1.8))
    return image


def _curves(axis: Axes, results: Results) -> None:
    curves = results.curves
    curves = curves[np.isclose(curves.mu, MU) & (curves["size"] == curves["size"].max())]
    for optimizer in ("adam", "laprop"):
        for nu, dash in zip(NUS, DASHES, strict=True):
            cell = curves[(curves.optimizer == optimizer) & np.isclose(curves.nu, nu)]
            cell = cell.sort_values("step")
            axis.plot(
                cell.step,
                cell["update"],
                color=style.COLOUR[optimizer],
                linestyle=dash,
                label=f"{NAMES[optimizer]}, ν {nu:g}",
            )
    axis.axhline(0, color="#999999", linewidth=0.8)
    size = curves["size"].max()
    axis.set(
        xscale="log", xlabel="updates after the exploding gradient",
        ylabel="update / learning rate",
        title=f"one gradient −10$^{{{np.log10(size):.0f}}}$, the rest 1; µ {MU:g}",
    )  # fmt: skip
    axis.legend(fontsize=7.5)


# Claims -------------------------------------------------------------------------------------------


def after(results: Results, optimizer: str) -> pd.Series:
    """The update at the exploding gradient, lowest over its sizes, by nu and mu; 1 before it."""
    runs = results.runs[results.runs.optimizer == optimizer]
    return runs.groupby(["nu", "mu"]).update_after.min()


def _recommended(values: pd.Series) -> pd.Series:
    mu, nu = (values.index.get_level_values(name) for name in ("mu", "nu"))
    (mu_low, mu_high), (nu_low, nu_high) = RECOMMENDED
    near = 1e-9
    inside = (mu > mu_low - near) & (mu < mu_high + near)
    return values[inside & (nu > nu_low - near) & (nu < nu_high + near)]


def recommended(results: Results) -> pd.Series:
    """LaProp's update at the exploding gradient, for the pairs that section 3.2 recommends."""
    return _recommended(after(results, "laprop"))


def direction_kept(results: Results) -> Measured:
    """LaProp's update keeps its sign at every recommended pair, whatever the size."""
    found = recommended(results)
    kept = found > 0
    text = " and ".join(
        (f"up to ν {nu.max():g}" if len(nu) else "at no ν") + f" at µ {mu:g}"
        for mu, cell in kept.groupby("mu")
        for nu in [cell[cell].index.get_level_values("nu")]
    )
    (nu, mu), adam = found.idxmin(), recommended_adam(results)
    return Measured(
        f"of ν {RECOMMENDED[1][0]:g} to {RECOMMENDED[1][1]:g}, LaProp's update keeps its "
        f"direction {text}. It changes most at µ {mu:g} and ν {nu:g}, from 1 to "
        f"{found.min():.2f} lr. Adam's update keeps its direction at {(adam > 0).sum()} of "
        f"{len(adam)} pairs",
        bool(kept.all()),
        f"kept at {kept.sum()} of {len(kept)} recommended pairs, where the paper says always",
    )


def recommended_adam(results: Results) -> pd.Series:
    """Adam's update at the exploding gradient, for the pairs that section 3.2 recommends."""
    return _recommended(after(results, "adam"))


def direction_closed_form(results: Results) -> Measured:
    """The update at the largest gradient agrees with the limit of an infinite one."""
    runs = results.runs[results.runs["size"] == results.runs["size"].max()]
    gap = (runs.update_after - runs.update_closed).abs().max()
    size = runs["size"].max()
    return Measured(
        f"at a gradient of {size:.0e} the update differs from the formula by at most {gap:.1g} lr, "
        f"over {len(runs)} settings of both optimizers",
        bool(gap < 1e-6),
        f"the update is within {gap:.1g} lr of the formula; the claim allows 1e-06",
    )
