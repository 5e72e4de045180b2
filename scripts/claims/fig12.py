"""Claims of appendix C.7 on accuracy and divergence over mu and nu.

A run has diverged where it was ended for its loss (``diverged_at``), or where its final training
loss is above log 10, the loss of guessing. Its onset is the first epoch after the one of its lowest
training loss at which the loss is above log 10. A cell, that is a mu and a nu, is stable where none
of its seeds diverged.
"""

import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import paired_difference, proportion
from scripts.claims.fig04 import GUESSING
from scripts.claims.measured import Measured

CELL = ["optimizer", "mu", "nu"]


def outcomes(results: Results) -> pd.DataFrame:
    """The runs with a column ``diverged``."""
    runs = results.runs
    # A run that was ended has no final loss; no comparison with NaN is true.
    return runs.assign(diverged=~(runs.train_loss <= GUESSING))


def onset(results: Results) -> pd.Series:
    """Epoch of the onset of each diverged run, by optimizer, mu, nu and seed."""
    runs = outcomes(results).set_index([*CELL, "seed"])
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
    runs = outcomes(results)
    unstable = runs[runs.diverged].set_index(["mu", "nu"]).index
    return runs[~runs.set_index(["mu", "nu"]).index.isin(unstable)]


def cifar_comparable(results: Results) -> Measured:
    """Comparable: the mean accuracies over the common cells differ by less than one point."""
    runs = common(results)
    by = runs.groupby(["optimizer", "seed"]).test_accuracy.mean() * 100
    difference, low, high = paired_difference(by["laprop"], by["adam"])
    cells = runs.groupby(["mu", "nu"]).ngroups
    return Measured(
        f"test accuracy over the {cells} cells where both are stable: LaProp "
        f"{by['laprop'].mean():.2f} %, Adam {by['adam'].mean():.2f} %, difference "
        f"{difference:+.2f} [{low:+.2f}, {high:+.2f}] points",
        True if max(-low, high) < 1 else False if low > 1 or high < -1 else None,
    )


def cifar_adam_diverges(results: Results) -> Measured:
    """Held where Adam diverges, only at mu > nu, the earlier the smaller nu, and LaProp never.

    A training that was cut short and in which nothing diverged says neither.
    """
    runs = outcomes(results)
    counts = runs.groupby("optimizer").diverged.agg(["sum", "size"])
    text = []
    for optimizer in ("adam", "laprop"):
        k, n = counts.loc[optimizer]
        share, low, high = proportion(k, n)
        text.append(f"{optimizer}: {k} of {n} runs diverged ({share:.0%} [{low:.0%}, {high:.0%}])")
    adam = runs[(runs.optimizer == "adam") & runs.diverged]
    held = len(adam) > 0 and bool((adam.mu > adam.nu).all()) and counts.loc["laprop", "sum"] == 0
    epochs = onset(results)
    if len(adam):
        mean = epochs["adam"].groupby(["mu", "nu"]).mean()
        for mu, by_nu in mean.groupby(level="mu"):
            ordered = by_nu.droplevel("mu").sort_index()
            held &= bool(ordered.is_monotonic_increasing)
            text.append(
                f"mu {mu:g}: mean onset at epoch "
                + ", ".join(f"{epoch:.0f} (nu {nu:g})" for nu, epoch in ordered.items())
            )
    too_short = not runs.diverged.any() and results.scale != "paper"
    return Measured("; ".join(text), None if too_short else bool(held))
