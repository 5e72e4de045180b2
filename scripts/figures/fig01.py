"""Figure 1, section 3.1: training loss of a two-layer net on MNIST at mu 0.9, nu 0.7."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import (
    decide,
    everywhere,
    median,
    share_above,
    share_below,
    somewhere,
)
from scripts.effects import Effect, share
from scripts.figures import style
from scripts.paper import NAMES, Measured, results_of


def finding(results: Results) -> str:
    """The title."""
    turned = {o: endings(results, o).turned for o in ("adam", "laprop")}
    mu, nu = (results.manifest["settings"][f"optimizer.{name}"] for name in ("mu", "nu"))
    return f"MNIST, µ {mu:g}, ν {nu:g} (µ > √ν): the loss rises again in " + ", ".join(
        f"{turned[o].sum()} of {len(turned[o])} runs of {NAMES[o]}" for o in turned
    )


def aside() -> str:
    """What the README adds to the finding: how long Adam is ahead at the smallest lr."""
    results = results_of("fig01")
    assert results is not None  # the finding was drawn from them
    curves = results.curves
    lr = curves.lr.min()
    loss = curves[curves.lr == lr].groupby(["optimizer", "step"]).train_loss.median()
    ahead = 100 * (loss["adam"] < loss["laprop"]).mean()
    return f". At lr {lr:g} Adam's median loss is still the lower at {ahead:.0f} % of the updates"


def draw(results: Results) -> Figure:
    """A panel for each learning rate: thin lines are seeds, the thick one is their median."""
    curves = results.curves
    rates = sorted(curves.lr.unique())
    figure, axes = plt.subplots(
        1, len(rates), figsize=(3.6 * len(rates) + 0.6, 3.4), sharey=True, squeeze=False
    )
    for axis, lr in zip(axes[0], rates, strict=True):
        for optimizer, cell in curves[curves.lr == lr].groupby("optimizer"):
            seeds = cell.pivot(index="step", columns="seed", values="train_loss")
            look = style.line(str(optimizer))
            axis.plot(seeds.index, seeds, color=look["color"], linewidth=0.3, alpha=0.25)
            style.medians(axis, seeds, alpha=0.25, **look)
        axis.set(yscale="log", xlabel="updates", title=f"lr {lr:g}")
    axes[0, 0].set_ylabel("training loss")
    style.legend(figure, axes[0, 0], 3)
    every = results.manifest["settings"]["task.log_every"]
    style.provenance(
        figure,
        results,
        f"µ 0.9, ν 0.7; mean over {every} minibatches; thick: median with 95 % interval",
    )
    return figure


# Claims -------------------------------------------------------------------------------------------


def endings(results: Results, optimizer: str) -> pd.DataFrame:
    """For each lr and seed: the lowest loss, the update where it is reached, and the final loss.

    A loss is first averaged over windows of a tenth of the training, because the lowest of many
    single records is low by chance. A loss that ends as NaN has turned.
    """
    curves = results.curves[results.curves.optimizer == optimizer]
    table = curves.pivot(index="step", columns=["lr", "seed"], values="train_loss")
    smooth = table.rolling(len(table) // 10).mean()
    frame = pd.DataFrame({"lowest": smooth.min(), "step": smooth.idxmin(), "last": smooth.iloc[-1]})
    return frame.assign(turned=~(frame["last"] <= 1.1 * frame.lowest))


def adam_turns(results: Results) -> Measured:
    """Whether Adam's loss rises again for most seeds at some learning rate."""
    text, found, turned, seeds = _turned(results, "adam")
    held = decide(somewhere(share_above(turned, seeds)), everywhere(share_below(turned, seeds)))
    apart = f"{turned.sum()} of {seeds.sum()} runs turn; the paper shows one, which turns"
    return Measured(text, held, apart, found)


def laprop_does_not_turn(results: Results) -> Measured:
    """Whether LaProp's loss rises again for less than a quarter of the seeds at every rate."""
    text, found, turned, seeds = _turned(results, "laprop")
    held = decide(
        everywhere(share_below(turned, seeds, 0.25)), somewhere(share_above(turned, seeds, 0.25))
    )
    apart = f"{turned.sum()} of {seeds.sum()} runs turn; the paper shows one, which does not"
    return Measured(text, held, apart, found)


def _turned(results: Results, optimizer: str) -> tuple[str, list[Effect], pd.Series, pd.Series]:
    """Of each lr the measurement as text, the share that turned, how many did, and of how many."""
    text, found = [], []
    by_lr = endings(results, optimizer).groupby(level="lr")
    for lr, cell in by_lr:
        turned = share(int(cell.turned.sum()), len(cell))
        found.append(turned)
        line = f"lr {lr:g}: turned {turned} of {len(cell)} seeds"
        if cell.turned.any():
            at, first, last = median(cell.step[cell.turned])
            rise = (cell["last"] / cell.lowest)[cell.turned].median()
            line += f", lowest loss at update {at:,.0f} [{first:,.0f}, {last:,.0f}], "
            line += f"final loss {rise:.1f} times the lowest"
        text.append(line)
    return "; ".join(text), found, by_lr.turned.sum(), by_lr.size()
