"""Claims of section 3.1 on the divergence of Adam.

The loss of a seed has turned where its mean over the last tenth of the training is above its
lowest value by more than a tenth of it; one record is the mean over ``task.log_every`` minibatches.
"""

import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import median, proportion
from scripts.claims.measured import Measured


def endings(results: Results, optimizer: str) -> pd.DataFrame:
    """Per lr and seed: lowest loss, the update of it, the mean loss of the last tenth."""
    curves = results.curves[results.curves.optimizer == optimizer]
    last = curves[curves.step > 0.9 * curves.step.max()]
    ended = last.groupby(["lr", "seed"]).train_loss.mean().rename("last")
    lowest = curves.loc[curves.groupby(["lr", "seed"]).train_loss.idxmin()]
    lowest = lowest.set_index(["lr", "seed"])[["train_loss", "step"]]
    return lowest.join(ended).assign(turned=lambda f: f["last"] > 1.1 * f.train_loss)


def _per_lr(results: Results, optimizer: str) -> tuple[str, pd.Series]:
    frame = endings(results, optimizer)
    text = []
    for lr, cell in frame.groupby(level="lr"):
        share, low, high = proportion(cell.turned.sum(), len(cell))
        line = f"lr {lr:g}: {share:.0%} of {len(cell)} seeds turned [{low:.0%}, {high:.0%}]"
        if cell.turned.any():
            at, first, last = median(cell.step[cell.turned])
            rise = (cell["last"] / cell.train_loss)[cell.turned].median()
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
