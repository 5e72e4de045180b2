"""Where the loss gets stuck on IWSLT14 without warmup: learning rates and depths."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import decide, equivalent, everywhere, mean, paired, somewhere
from scripts.effects import difference
from scripts.figures import style
from scripts.figures.fig05 import MARGIN
from scripts.paper import NAMES, Measured


def finding(results: Results) -> str:
    """The title."""
    runs = results.runs
    line = runs.unigram_loss.mean() - MARGIN
    loss = runs.final_loss.fillna(line + MARGIN)
    stuck = loss.groupby([runs.optimizer, runs.lr, runs.layers]).mean() > line
    return "IWSLT14 without warmup, stuck: " + ", ".join(
        f"{NAMES[o]} in {cells.sum()} of {len(cells)} settings"
        for o, cells in stuck.groupby("optimizer")
    )


def draw(results: Results) -> Figure:
    """A panel for each depth: final loss over the learning rate, mean and every seed."""
    runs = results.runs
    depths = sorted(runs.layers.unique())
    size = (3.2 * len(depths) + 0.8, 3.2)
    figure, axes = plt.subplots(1, len(depths), figsize=size, sharey=True, squeeze=False)
    for depth, axis in zip(depths, axes[0], strict=True):
        panel = runs[runs.layers == depth]
        for optimizer, arm in panel.groupby("optimizer"):
            axis.plot(arm.groupby("lr").final_loss.mean(), **style.line(optimizer))
            axis.plot(arm.lr, arm.final_loss, ".", color=style.COLOUR[optimizer], markersize=4)
        for below in (0, MARGIN):
            height = panel.unigram_loss.mean() - below
            axis.axhline(height, color="#999999", linewidth=0.8, linestyle=":")
        rates = sorted(panel.lr.unique())
        axis.set(title=f"{depth} + {depth} layers", xscale="log", xlabel="learning rate")
        axis.set_xticks(rates, [f"{lr:g}" for lr in rates])
        axis.minorticks_off()
        axis.margins(x=0.1)
    axes[0, 0].set_ylabel("final training loss, bits")
    axes[0, 0].legend()
    note = f"dotted: what the words' frequencies alone give, and {MARGIN:g} below: stuck above that"
    style.provenance(figure, results, note)
    return figure


# Claims -------------------------------------------------------------------------------------------


def alone_stuck(results: Results, optimizer: str, nowhere: bool) -> Measured:
    """Whether one optimizer alone is stuck at some lr and depth or, with ``nowhere``, at none.

    Stuck is as in Figure 5, of the final loss; a run that diverged is stuck.
    """
    other = "laprop" if optimizer == "adam" else "adam"
    text, alone, refuted, count = [], [], [], 0
    for (lr, layers), runs in results.runs.groupby(["lr", "layers"]):
        line = runs.unigram_loss.mean() - MARGIN
        loss = runs.final_loss.fillna(line + MARGIN).groupby(runs.optimizer)
        cell = {o: mean(values) for o, values in loss}
        alone.append(everywhere([cell[optimizer].above(line), cell[other].below(line)]))
        refuted.append(somewhere([cell[optimizer].below(line), cell[other].above(line)]))
        count += cell[optimizer].centre > line >= cell[other].centre
        words = ", ".join(f"{NAMES[o]} {cell[o]:.2f}" for o in ("adam", "laprop"))
        text.append(f"lr {lr:g}, {layers} layers: {words}")
    held = decide(somewhere(alone), everywhere(refuted))
    held = held if not nowhere or held is None else not held
    return Measured(
        f"final loss in bits, stuck above {line:.2f}: {'; '.join(text)}",
        held,
        f"by the means {NAMES[optimizer]} alone is stuck at {count} of {len(text)} settings",
    )


def not_stuck_at(results: Results, optimizer: str, lr: float) -> Measured | None:
    """An optimizer is not stuck at a learning rate, in the deepest net; None where it was not run.

    Stuck is as in Figure 5, of the final loss; a run that diverged is stuck.
    """
    runs = _deepest(results, lr)
    runs = runs[runs.optimizer == optimizer]
    if runs.empty:
        return None
    line = runs.unigram_loss.mean() - MARGIN
    loss = mean(runs.final_loss.fillna(line + MARGIN))
    return Measured(
        f"final loss of {NAMES[optimizer]} at lr {lr:g}, bits: {loss:.2f}; stuck above {line:.2f}",
        decide(loss.below(line), loss.above(line)),
        f"{abs(loss.centre - line):.2f} bits {'above' if loss.centre > line else 'below'} the line",
    )


def alike_at(results: Results, lr: float) -> Measured | None:
    """Adam and LaProp end within MARGIN of each other at a learning rate, in the deepest net."""
    loss = _deepest(results, lr).pivot(index="seed", columns="optimizer", values="final_loss")
    if loss.empty:
        return None
    gap = paired(loss.adam, loss.laprop)
    return Measured(
        f"final loss at lr {lr:g}, Adam minus LaProp, bits: {difference(gap)}; margin {MARGIN:g}",
        equivalent(gap, MARGIN),
        f"Adam minus LaProp: {gap.centre:+.2f} bits; the claim allows {MARGIN:g} either way",
        [difference(gap)],
    )


def _deepest(results: Results, lr: float) -> pd.DataFrame:
    runs = results.runs
    return runs[(runs.lr == lr) & (runs.layers == runs.layers.max())]
