"""Claims of section 3.1 on the divergence of Adam.

A seed's loss is first averaged over windows of a tenth of the training, since the lowest of many
single records is low by chance. It has turned where the last window is more than a tenth above the
lowest one.
"""

import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import median, proportion
from scripts.claims.measured import Measured


def endings(results: Results, optimizer: str) -> pd.DataFrame:
    """Per lr and seed: the lowest window's loss, the update at its end, and the last window's."""
    curves = results.curves[results.curves.optimizer == optimizer]
    table = curves.pivot(index="step", columns=["lr", "seed"], values="train_loss")
    smooth = table.rolling(len(table) // 10).mean()
    frame = pd.DataFrame({"lowest": smooth.min(), "step": smooth.idxmin(), "last": smooth.iloc[-1]})
    return frame.assign(turned=frame["last"] > 1.1 * frame.lowest)


def _per_lr(results: Results, optimizer: str) -> tuple[str, pd.Series]:
    frame = endings(results, optimizer)
    text = []
    for lr, cell in frame.groupby(level="lr"):
        share, low, high = proportion(cell.turned.sum(), len(cell))
        line = f"lr {lr:g}: {share:.0%} of {len(cell)} seeds turned [{low:.0%}, {high:.0%}]"
        if cell.turned.any():
            at, first, last = median(cell.step[cell.turned])
            rise = (cell["last"] / cell.lowest)[cell.turned].median()
            line += f", lowest at update {at:,.0f} [{first:,.0f}, {last:,.0f}], then {rise:.1f} x"
        text.append(line)
    return "; ".join(text), frame.groupby(level="lr").turned.mean()


def adam_turns(results: Results) -> Measured:
    """Held where most seeds turn at the learning rate that shows it best."""
    text, share = _per_lr(results, "adam")
    return Measured(text, bool(share.max() > 0.5))


def laprop_keeps_falling(results: Results) -> Measured:
    """Held where at every learning rate at most 5 % of the seeds turn."""
    text, share = _per_lr(results, "laprop")
    return Measured(text, bool(share.max() <= 0.05))
