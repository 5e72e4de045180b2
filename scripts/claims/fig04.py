"""Claims of section 5.3 on very deep nets.

A seed has learned where one record of its training loss, the mean over ``task.log_every``
minibatches, is below nine tenths of log 10, the loss of guessing; a setting learns where most of
its seeds do. How fast a loss falls is its mean over the whole training, with each record cut at
log 10, so that a start that overshoots does not decide.
"""

import numpy as np
import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import paired_difference
from scripts.claims.measured import Measured, decided

GUESSING = float(np.log(10))
LEARNED_BELOW = 0.9 * GUESSING


def shares(results: Results) -> pd.Series:
    """Share of the seeds that learned, by optimizer, depth and lr."""
    runs = results.runs
    learned = runs.lowest_loss < LEARNED_BELOW
    return learned.groupby([runs.optimizer, runs.depth, runs.lr]).mean()


def largest_rate(share: pd.Series) -> float:
    """The largest lr at which most seeds learn, 0 where there is none; ``share`` by lr."""
    return float(share.index[share > 0.5].max()) if (share > 0.5).any() else 0.0


def deep_first_to_learn(results: Results) -> Measured:
    """Held where at the greatest depth nothing learns above 1e-4 and LaProp at more than Adam."""
    rates = {
        key: largest_rate(cell.droplevel(["optimizer", "depth"]))
        for key, cell in shares(results).groupby(level=["optimizer", "depth"])
    }
    depths = sorted({depth for _, depth in rates})
    text = "; ".join(
        f"depth {depth}: "
        + ", ".join(
            f"{optimizer} {rates[optimizer, depth]:.0e}".replace(" 0e+00", " nowhere")
            for optimizer in ("laprop", "adam", "amsgrad")
        )
        for depth in depths
    )
    laprop, adam, amsgrad = (rates[o, depths[-1]] for o in ("laprop", "adam", "amsgrad"))
    held = max(laprop, adam, amsgrad) <= 1e-4 * (1 + 1e-9) and laprop > adam
    return Measured(
        f"largest lr at which most seeds learn: {text}",
        held if max(laprop, adam, amsgrad) > 0 else None,
    )


def deep_faster(results: Results) -> Measured:
    """Held where LaProp's mean loss is lower, over all settings at which it or Adam learns."""
    share = shares(results)
    either = (share["laprop"] > 0.5) | (share["adam"] > 0.5)
    curves = results.curves
    loss = curves.train_loss.fillna(GUESSING).clip(upper=GUESSING)
    mean = loss.groupby([curves.optimizer, curves.depth, curves.lr, curves.seed]).mean()
    laprop, adam = (
        mean[optimizer].unstack("seed")[either].mean() for optimizer in ("laprop", "adam")
    )
    centre, low, high = paired_difference(laprop, adam)
    lower = (
        mean["laprop"].groupby(["depth", "lr"]).mean()
        < mean["adam"].groupby(["depth", "lr"]).mean()
    )[either]
    return Measured(
        f"mean training loss, LaProp minus Adam: {centre:+.3f} [{low:+.3f}, {high:+.3f}] over the "
        f"{either.sum()} settings at which either learns; lower with LaProp at {lower.sum()}",
        decided(-high, -low),
    )
