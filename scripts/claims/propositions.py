"""Claims of section 4 on the size of one update (Propositions 1 and 2).

The largest update over all adversaries is compared with the bound. Tables hold seven digits, so a
bound counts as passed where the update is above it by more than one part in a million.
"""

import numpy as np
import pandas as pd

from experiments.common.records import Results
from scripts.claims.measured import Measured

MARGIN = 1 + 1e-6


def _largest(results: Results, optimizer: str) -> pd.DataFrame:
    """Per mu and nu the largest update over all sequences, and the bounds."""
    runs = results.runs[results.runs.optimizer == optimizer]
    by = runs.groupby(["mu", "nu"])
    return by.agg(
        update=("update", "max"), bound=("bound", "first"), printed=("bound_printed", "first")
    ).reset_index()


def laprop_update_bounded(results: Results) -> Measured:
    """Proposition 1."""
    cells = _largest(results, "laprop")
    share = cells["update"] / cells.bound
    passed = int((share > MARGIN).sum())
    text = (
        f"{len(cells)} pairs of mu (0 to {cells.mu.max():g}) and nu (0 to {cells.nu.max():g}): the "
        f"worst sequences reach {share.min():.3f} to {share.max():.6f} of the bound, "
        + (f"{passed} pass it" if passed else "none passes it: it is the supremum")
    )
    return Measured(text, passed == 0)


def _adam_bounded(results: Results, column: str) -> Measured:
    cells = _largest(results, "adam")
    cells = cells[(cells.mu < np.sqrt(cells.nu)) | (cells.mu == 0)]
    share = cells["update"] / cells[column]
    worst = cells.loc[share.idxmax()]
    passed = int((share > MARGIN).sum())
    text = (
        f"passed at {passed} of {len(cells)} pairs with mu < sqrt(nu); largest update over bound "
        f"{share.max():.4g} (mu {worst.mu:g}, nu {worst.nu:g}), smallest {share.min():.2g}"
    )
    return Measured(text, passed == 0)


def adam_update_bounded(results: Results) -> Measured:
    """Proposition 2 as section 4 prints it."""
    return _adam_bounded(results, "printed")


def adam_update_bounded_proved(results: Results) -> Measured:
    """Proposition 2 as its proof has it."""
    return _adam_bounded(results, "bound")


def adam_update_unbounded(results: Results) -> Measured:
    """Along (nu/mu)^t the update is (1-mu)/sqrt(1-nu) sqrt(1 + ... + gamma^(2t-2)), corrected."""
    runs = results.runs
    runs = runs[(runs.optimizer == "adam") & (runs.sequence == "adam_worst")]
    beyond = runs[runs.mu > np.sqrt(runs.nu) * (1 + 1e-9)]
    share = 1 + beyond.excess_over_supremum.dropna()  # at nu = 0 the supremum is infinite
    steep = beyond["update"] > 1e6
    smallest, largest = beyond["update"].min(), beyond["update"].max()
    text = (
        f"{len(beyond.groupby(['mu', 'nu']))} pairs with mu > sqrt(nu): the largest update is "
        f"{share.min():.2g} to {share.max():.2g} of the supremum, which grows with the step: "
        f"{smallest:.2g} to {largest:.1g} lr where float64 or the sequence ends, above a million "
        f"at {steep.mean():.0%}; LaProp on the same gradients at most "
        f"{_laprop_on_the_same(results, beyond):.3g} lr"
    )
    return Measured(text, bool((share > 0.5).all()))


def _laprop_on_the_same(results: Results, cells: pd.DataFrame) -> float:
    runs = results.runs
    runs = runs[(runs.optimizer == "laprop") & (runs.sequence == "adam_worst")]
    return float(runs.merge(cells[["mu", "nu", "seed"]])["update"].max())
