"""Claims about Figures 5b and 10, RoBERTa."""

import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import paired_difference
from scripts.claims.measured import Measured


def gains(results: Results, column: str) -> pd.DataFrame:
    """LaProp minus Adam in each cell of nu and warmup: ``centre``, ``low``, ``high`` over seeds.

    Args:
        results: of fig10.
        column: of its runs, ``mean_loss`` or ``final_loss``, in bits.
    """
    runs = results.runs.set_index(["nu", "warmup", "seed"])
    loss = {o: runs[runs.optimizer == o][column] for o in ("adam", "laprop")}
    rows = {}
    for cell, adam in loss["adam"].groupby(level=["nu", "warmup"]):
        rows[cell] = paired_difference(loss["laprop"].loc[cell], adam.droplevel([0, 1]))
    index = pd.MultiIndex.from_tuples(rows, names=["nu", "warmup"])
    return pd.DataFrame(list(rows.values()), index, columns=["centre", "low", "high"])


def told(table: pd.DataFrame) -> str:
    """Those gains in a line."""
    return "; ".join(
        f"nu {nu:g}{', warmup' if warmup else ''} {centre:+.3f} [{low:+.3f}, {high:+.3f}]"
        for (nu, warmup), (centre, low, high) in table.iterrows()
    )


def _everywhere(results: Results, column: str, what: str) -> Measured:
    """Held where LaProp is lower in every cell, not where Adam is in any; else undecided."""
    table = gains(results, column)
    held = True if (table.high < 0).all() else False if (table.low > 0).any() else None
    return Measured(f"{what}, LaProp minus Adam, bits: {told(table)}", held)


def roberta_faster(results: Results) -> Measured:
    """By the mean loss of all updates: who is ahead for longer, and by more, is faster."""
    return _everywhere(results, "mean_loss", "mean training loss")


def roberta_nu(results: Results) -> Measured:
    """By the loss at the end of the training."""
    return _everywhere(results, "final_loss", "final training loss")
