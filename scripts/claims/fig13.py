"""Claims of appendix C.7 on the final losses over mu and nu.

What has diverged, and which cells are stable, is told as for Figure 12.
"""

import numpy as np
import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import interval, paired_difference
from scripts.claims.fig12 import common, outcomes
from scripts.claims.measured import Measured, decided


def rise(runs: pd.DataFrame, optimizer: str) -> tuple[float, float, float]:
    """Final test loss at nu up to 0.4 less that at larger nu, for mu up to 0.95, over seeds."""
    chosen = runs[(runs.optimizer == optimizer) & (runs.mu <= 0.95) & ~runs.diverged]
    small = chosen.nu <= 0.4
    by_seed = [cell.groupby("seed").test_loss.mean() for cell in (chosen[small], chosen[~small])]
    return paired_difference(*by_seed)


def cifar_test_loss(results: Results) -> Measured:
    """Held where, of the stable runs, Adam's is higher at small nu and LaProp's is not."""
    runs = outcomes(results)
    adam, laprop = rise(runs, "adam"), rise(runs, "laprop")
    text = ", ".join(
        f"{name} {centre:+.3f} [{low:+.3f}, {high:+.3f}]"
        for name, (centre, low, high) in (("Adam", adam), ("LaProp", laprop))
    )
    held: bool | None = None
    if adam[1] > 0 and laprop[1] <= 0:
        held = True
    elif adam[2] < 0 or laprop[1] > 0:
        held = False
    return Measured(
        f"final test loss of stable runs, nu up to 0.4 less larger nu, mu up to 0.95: {text}", held
    )


def cifar_training_loss(results: Results) -> Measured:
    """Held where LaProp's training loss varies more over the common cells than Adam's.

    How much: the standard deviation over the cells of the logarithm of the final loss.
    """
    runs = common(results)
    spread = np.log(runs.train_loss).groupby([runs.optimizer, runs.seed]).std()
    difference, low, high = paired_difference(spread["laprop"], spread["adam"])
    each = {o: interval(spread[o]) for o in ("laprop", "adam")}
    text = ", ".join(f"{o} {c:.3f} [{a:.3f}, {b:.3f}]" for o, (c, a, b) in each.items())
    return Measured(
        f"standard deviation of the log of the final training loss over the "
        f"{runs.groupby(['mu', 'nu']).ngroups} cells where both are stable: {text}; difference "
        f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]",
        decided(low, high),
    )
