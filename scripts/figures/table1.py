"""Table 1, section 3, measured: how Adam and LaProp close in on the methods that they become.

The reach of a path is its farthest distance from its start. A limit counts as reached where the
distance of the two paths, divided by the reach, falls at each tenfold approach for every seed, down
to at most 1 % at the smallest distance from the limit.
"""

from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts.figures import style
from scripts.paper import NAMES, Measured

REACHED = 0.01
LIMIT = {
    "mu_0": ("µ → 0: RMSProp", "µ"),
    "mu_0_nu_1": ("µ → 0, ν → 1: RMSProp", "µ = 1 − ν"),
    "nu_0": ("ν → 0: signed SGD with momentum", "ν"),
    "both_0": ("µ, ν → 0: signed SGD", "µ = ν"),
    "nu_1_other": ("ν → 1, n from 0: LaProp → Adam", "1 − ν"),
    "nu_1_other_warm": ("ν → 1, settled n: LaProp → Adam", "1 − ν"),
    "nu_1": ("ν → 1, settled n: SGD with momentum", "1 − ν"),
    "nu_1_cold": ("ν → 1, n from 0: n the mean of all g²", "1 − ν"),
    "mu_1": ("µ → 1: m the mean of all steps", "1 − µ"),
}


def finding(results: Results) -> str:
    """The title."""
    entries = [
        become(results, "mu_0", ["adam", "laprop"]),
        become(results, "nu_0", ["laprop"]),
        adam_nu_to_zero(results),
        become(results, "both_0", ["adam"]),
        laprop_nu_to_one(results),
    ]
    held = sum(bool(entry.held) for entry in entries)
    apart = distances(results, "laprop", "nu_1_other").iloc[0].median()
    how_many = "All" if held == len(entries) else f"{held} of"
    return (
        f"{how_many} {len(entries)} entries of Table 1 hold; "
        f"LaProp stays {100 * apart:.0f} % from Adam as ν → 1 if the second moment n starts at 0"
    )


def draw(results: Results) -> Figure:
    """A panel per limit: distance of the paths against the distance from the limit."""
    limits = [limit for limit in LIMIT if limit in set(results.runs.limit)]
    rows = -(-len(limits) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(9.6, 0.6 + 2.5 * rows), squeeze=False)
    for axis in axes.flat[len(limits) :]:
        axis.set_axis_off()
    for axis, limit in zip(axes.flat, limits, strict=False):
        title, symbol = LIMIT[limit]
        chosen = results.runs[results.runs.limit == limit]
        for optimizer, cell in chosen.groupby("optimizer"):
            by = cell.groupby("distance").path_distance
            look: dict[str, Any] = {"marker": "o", "markersize": 3.5} | style.line(str(optimizer))
            style.band(axis, list(by.groups), (by.median(), by.min(), by.max()), **look)
        axis.set(xscale="log", yscale="log", title=title, xlabel=symbol)
        low, high = axis.get_ylim()
        if high < 10 * low:
            style.plain(axis.yaxis)
        axis.invert_xaxis()
    diverging = axes.flat[limits.index("nu_0")]
    diverging.axhline(1, color="#999999", linewidth=0.8)
    diverging.annotate("reach of the path", (0.1, 1), (0, 3), textcoords="offset points",
                        fontsize=7, color="#666666")  # fmt: skip
    for axis in axes[:, 0]:
        axis.set_ylabel("distance of the paths / reach")
    style.legend(figure, axes[0, 0], 2)
    mu = results.manifest["settings"]["optimizer.mu"]
    note = (
        f"where only one of µ and ν goes to a limit, the other is {mu:g}; n: the second moment, "
        "settled: it starts at the mean of squared gradients; median, bands: range of the seeds"
    )
    style.provenance(figure, results, note)
    return figure


# Claims -------------------------------------------------------------------------------------------


def distances(results: Results, optimizer: str, limit: str) -> pd.DataFrame:
    """Distance of the paths: a row per distance from the limit, the nearest first; by seed."""
    runs = results.runs
    chosen = runs[(runs.optimizer == optimizer) & (runs.limit == limit)]
    return chosen.pivot(index="distance", columns="seed", values="path_distance")


def become(results: Results, limit: str, optimizers: list[str]) -> Measured:
    """Each optimizer becomes the method that Table 1 has at this limit."""
    text, held, worst = [], True, 0.0
    for optimizer in optimizers:
        table = distances(results, optimizer, limit)
        far, near = table.index[-1], table.index[0]
        text.append(
            f"{NAMES[optimizer]} {table.iloc[-1].median():.2g} at {far:g} from the limit, "
            f"{table.iloc[0].median():.2g} at {near:g} (largest of {table.shape[1]} seeds "
            f"{table.iloc[0].max():.2g})"
        )
        worst = max(worst, table.iloc[0].max())
        held &= bool((np.diff(table, axis=0) > 0).all() and table.iloc[0].max() <= REACHED)
    return Measured(f"distance of the paths: {'; '.join(text)}", held,
                    f"the distance nearest to the limit is {worst:.2g}; the claim allows "
                    f"{REACHED:g}")  # fmt: skip


def adam_nu_to_zero(results: Results) -> Measured:
    """Adam's path leaves that of signed SGD with momentum by more than its reach at every nu."""
    table, runs = distances(results, "adam", "nu_0"), results.runs
    update = runs[(runs.optimizer == "adam") & (runs.limit == "nu_0")].largest_update
    return Measured(
        f"distance from signed SGD with momentum {table.iloc[-1].median():.1g} times the reach of "
        f"its path at ν {table.index[-1]:g}, {table.iloc[0].median():.1g} at {table.index[0]:g}; "
        f"largest update {update.max():.1g} lr",
        bool((table > 1).all().all()),
        f"we found an update of {update.max():.1g} lr; the paper says unbounded",
    )


def laprop_nu_to_one(results: Results) -> Measured:
    """LaProp becomes Adam with the same mu and nu, from a second moment that has settled."""
    found = become(results, "nu_1_other_warm", ["laprop"])
    cold = distances(results, "laprop", "nu_1_other")
    text = f"{found.text}; from n = 0, which is not part of the claim, {cold.iloc[0].median():.2g}"
    return replace(found, text=f"{text} at {cold.index[0]:g}")


def differ_at_default(results: Results) -> Measured | None:
    """LaProp's path and Adam's at nu 0.999, both from n = 0, beside each other."""
    if "nu_1_other" not in set(results.runs.limit):
        return None  # the two were not run beside each other
    found = distances(results, "laprop", "nu_1_other").loc[lambda t: np.isclose(t.index, 1e-3)]
    least, most = found.min(axis=None), found.max(axis=None)
    return Measured(f"distance of the paths at ν 0.999: {least:.3g} to {most:.3g} over seeds",
                    bool(least > REACHED), f"the distance is at least {least:.2g}; the claim "
                                           f"needs more than {REACHED:g}")  # fmt: skip
