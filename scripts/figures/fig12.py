"""Figure 12, appendix C.7: test accuracy of ResNet-20 on CIFAR-10 over mu and nu.

A run has diverged where it was ended for its loss (``diverged_at``), or where its final training
loss is above log 10, the loss of guessing. Its onset is the first epoch after the one of its lowest
training loss at which the loss is above log 10. A cell, that is a mu and a nu, is stable where none
of its seeds diverged, and counts as diverged where more than half of them did.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from scipy.stats import fisher_exact

from experiments.common.records import Results
from experiments.common.stats import (
    decide,
    equivalent,
    every_above,
    mean,
    paired,
    share_above,
    share_below,
)
from scripts.effects import difference
from scripts.figures import style
from scripts.figures.fig04 import GUESSING
from scripts.paper import NAMES, Measured

CELL = ["optimizer", "mu", "nu"]
OPTIMIZERS = ("laprop", "adam")


def finding(results: Results) -> str:
    """The title."""
    runs = outcomes(results.runs)
    diverged = {o: runs.diverged[runs.optimizer == o] for o in OPTIMIZERS}
    of_laprop, of_adam = (
        f"{ended.sum()} of {len(ended)}" for ended in (diverged["laprop"], diverged["adam"])
    )
    return f"CIFAR-10: {of_laprop} runs of LaProp diverge, {of_adam} of Adam"


def draw(results: Results) -> Figure:
    """A map for each optimizer, in per cent."""
    return maps(results, {"test_accuracy": "test accuracy, %"}, 100, "{:.1f}", "cividis")


def maps(
    results: Results,
    columns: dict[str, str],
    scale: float,
    number: str,
    colours: str,
    note: str = "",
) -> Figure:
    """A row of maps, nu by mu, for each column: one map per optimizer, on a common scale.

    Args:
        results: runs with columns optimizer, mu, nu, seed, train_loss and ``columns``.
        columns: numbers to show and their names.
        scale: factor before they are shown.
        number: format of a cell's mean over its seeds that did not diverge.
        colours: matplotlib's colour map.
        note: what else the line below the figure says.
    """
    runs = outcomes(results.runs)
    shape = (runs.nu.nunique(), runs.mu.nunique())
    figure, axes = plt.subplots(
        len(columns),
        len(OPTIMIZERS),
        figsize=(
            max(1.9 + len(OPTIMIZERS) * 0.62 * shape[1], 7.2),
            0.9 + len(columns) * 0.38 * shape[0] + 0.6,
        ),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for row, (column, name) in zip(axes, columns.items(), strict=True):
        stable = runs[~runs.diverged]
        mean = stable.groupby(CELL)[column].mean() * scale
        # Else the worst cells would leave one colour for all the others.
        low, high = np.nanquantile(mean, [0.05, 0.95])
        for axis, optimizer in zip(row, OPTIMIZERS, strict=True):
            cells = runs[runs.optimizer == optimizer].groupby(["nu", "mu"])
            diverged = cells.diverged.agg(["sum", "size"])
            table = diverged.join(mean[optimizer].rename("mean"))
            image = _map(axis, table, low, high, number, colours)
            axis.set_title(NAMES[optimizer])
        row[0].set_ylabel("ν")
        figure.colorbar(image, ax=row, label=name, extend="both")
    for axis in axes[-1]:
        axis.set_xlabel("µ")
    marks = "mean over the last epochs; ×: all seeds diverged, × n: n seeds diverged"
    style.provenance(figure, results, f"{marks}; {note}" if note else marks)
    return figure


def _map(
    axis: Axes, table: pd.DataFrame, low: float, high: float, number: str, colours: str
) -> AxesImage:
    grid = table["mean"].unstack("mu")
    image = axis.imshow(grid, cmap=colours, vmin=low, vmax=high, aspect="auto", origin="lower")
    axis.grid(False)
    axis.set_xticks(range(len(grid.columns)), [f"{mu:g}" for mu in grid.columns])
    axis.set_yticks(range(len(grid.index)), [f"{nu:g}" for nu in grid.index])
    for (nu, mu), cell in table.iterrows():
        lines = [] if np.isnan(cell["mean"]) else [number.format(cell["mean"])]
        if cell["sum"]:
            lines.append("×" if cell["sum"] == cell["size"] else f"× {cell['sum']:.0f}")
        red, green, blue, _ = image.cmap(image.norm(cell["mean"]))
        dark = np.isfinite(cell["mean"]) and 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        axis.text(
            list(grid.columns).index(mu),
            list(grid.index).index(nu),
            "\n".join(lines),
            ha="center",
            va="center",
            fontsize=6.5,
            color="white" if dark else "black",
        )
    return image


def first_runs(results: Results) -> list[str]:
    """What the runs of unfinished seeds show: a line for each cell of mu and nu and seed."""
    runs = outcomes(results.every_run)
    cells = []
    for (mu, nu, seed), cell in runs.groupby(["mu", "nu", "seed"]):
        ends = [
            f"{NAMES[run.optimizer]} diverged"
            if run.diverged
            else f"{NAMES[run.optimizer]} did not diverge, training loss {run.train_loss:.3f}, "
            f"test accuracy {run.test_accuracy:.1%}"
            for run in cell.itertuples()
        ]
        cells.append(f"µ {mu:g}, ν {nu:g}, seed {seed}: {'; '.join(ends)}")
    return cells


def so_far(results: Results) -> str:
    """What the runs of unfinished seeds show, as the end of a sentence."""
    runs = outcomes(results.every_run)
    counts = [
        f"{own.diverged.sum()} of {len(own)} runs of {NAMES[o]}"
        for o, own in runs.groupby("optimizer")
    ]
    cells = ", ".join(
        f"{name} " + ", ".join(f"{value:g}" for value in sorted(values.unique()))
        for name, values in (("µ", runs.mu), ("ν", runs.nu))
    )
    return f"{' and '.join(counts)} diverge ({cells})"


# Claims -------------------------------------------------------------------------------------------


def outcomes(runs: pd.DataFrame) -> pd.DataFrame:
    """These runs with a column ``diverged``."""
    # A run that was ended has no final loss; no comparison with NaN is true.
    return runs.assign(diverged=~(runs.train_loss <= GUESSING))


def diverged_cells(results: Results, optimizer: str) -> pd.Series:
    """For each mu and nu, whether more than half of the seeds diverged."""
    runs = outcomes(results.runs)
    return runs[runs.optimizer == optimizer].groupby(["mu", "nu"]).diverged.mean() > 0.5


def onset(results: Results) -> pd.Series:
    """Epoch of the onset of each diverged run, by optimizer, mu, nu and seed."""
    runs = outcomes(results.runs).set_index([*CELL, "seed"])
    curves = results.curves.set_index([*CELL, "seed"])
    epochs = {}
    for run in runs.index[runs.diverged]:
        curve = curves.loc[[run]].set_index("step").train_loss
        lowest = curve.idxmin() if curve.notna().any() else 0
        after = curve[curve.index > lowest]
        above = after.index[~(after <= GUESSING)]
        epochs[run] = int(above[0]) if len(above) else int(curve.index[-1])
    index = pd.MultiIndex.from_tuples(epochs, names=runs.index.names) if epochs else runs.index[:0]
    return pd.Series(list(epochs.values()), index=index, dtype=float)


def common(results: Results) -> pd.DataFrame:
    """The runs of the cells that are stable for LaProp and for Adam."""
    runs = outcomes(results.runs)
    unstable = runs[runs.diverged].set_index(["mu", "nu"]).index
    return runs[~runs.set_index(["mu", "nu"]).index.isin(unstable)]


def cifar_comparable(results: Results, margin: float) -> Measured:
    """The mean accuracies over the common cells: an equivalence test, margin in points."""
    runs = common(results)
    if runs.empty:
        return Measured("both are stable in no cell", None, "nothing to compare")
    by = runs.groupby(["optimizer", "seed"]).test_accuracy.mean() * 100
    gap = paired(by["laprop"], by["adam"])
    higher = difference(gap)
    return Measured(
        f"test accuracy over the {runs.groupby(['mu', 'nu']).ngroups} cells where both are stable: "
        f"LaProp {by['laprop'].mean():.2f} %, Adam {by['adam'].mean():.2f} %, "
        f"difference {higher} points",
        equivalent(gap, margin),
        f"the accuracies differ by {abs(gap.centre):.2f} points; the claim allows {margin:g}",
        [higher],
    )


def cifar_adam_diverges(results: Results) -> Measured:
    """Adam diverges in more cells with mu > sqrt(nu) than others, by Fisher's exact test."""
    cells = diverged_cells(results, "adam")
    mu, nu = (cells.index.get_level_values(name) for name in ("mu", "nu"))
    above = mu > np.sqrt(nu)
    (k, n), (other, m) = ((int(side.sum()), len(side)) for side in (cells[above], cells[~above]))
    p = fisher_exact([[k, n - k], [other, m - other]], alternative="greater").pvalue
    return Measured(
        f"Adam diverged in {k} of the {n} cells with µ > √ν and in {other} of the {m} others "
        f"(p {p:.2g})",
        # A training that was cut short might have diverged later.
        decide(p, float(share_below(k, n)) if results.scale == "paper" else 1),
        f"{k} of {n} cells with µ > √ν diverge",
    )


def cifar_adam_earlier(results: Results) -> Measured:
    """The onset at the largest nu that diverges minus that at the smallest, per mu and seed."""
    epochs = onset(results)
    if "adam" not in epochs.index.get_level_values("optimizer"):
        return Measured("no run of Adam diverged", None, "nothing to order")
    table = epochs["adam"].unstack("nu").sort_index(axis=1)
    later = table.ffill(axis=1).iloc[:, -1] - table.bfill(axis=1).iloc[:, 0]
    gap = mean(later[table.count(axis=1) > 1].groupby("seed").mean())
    text = "; ".join(
        f"µ {mu:g}: " + ", ".join(f"{e:.0f} (ν {nu:g})" for nu, e in rows.mean().dropna().items())
        for mu, rows in table.groupby(level="mu")
    )
    later_by = difference(gap, "+.1f")
    return Measured(
        f"mean epoch of the onset, {text}; at the largest ν minus that at the smallest: {later_by} "
        "epochs",
        every_above([gap]),
        f"{gap.centre:+.1f} epochs from the smallest ν to the largest; the claim needs more than 0",
        [later_by],
    )


def cifar_laprop_stable(results: Results) -> Measured:
    """No run of LaProp diverges, and Adam diverges in so many cells that this is no chance."""
    runs = outcomes(results.runs)
    by = {o: runs.diverged[runs.optimizer == o] for o in OPTIMIZERS}
    cells = int(diverged_cells(results, "adam").sum())
    k, n = int(by["laprop"].sum()), len(by["laprop"])
    text = ", ".join(f"{NAMES[o]} {ended.sum()} of {len(ended)} runs" for o, ended in by.items())
    return Measured(
        f"diverged: {text}; Adam in {cells} cells, LaProp in none of them"
        if not k
        else f"diverged: {text}",
        False if k else decide(float(share_above(cells, cells)), 1),
        f"{k} of LaProp's {n} runs diverge, in the paper none",
    )
