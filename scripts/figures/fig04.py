"""Figure 4, section 5.3: training of very deep fully connected nets on MNIST, and who learns.

A seed has learned where one record of its training loss, the mean over ``task.log_every``
minibatches, is below nine tenths of log 10, the loss of guessing.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import (
    Estimate,
    decide,
    every_above,
    everywhere,
    mean,
    median,
    paired,
    somewhere,
)
from scripts.figures import style
from scripts.paper import NAMES, Measured

GUESSING = float(np.log(10))
LEARNED_BELOW = 0.9 * GUESSING
OPTIMIZERS = ("laprop", "adam", "amsgrad")
RATES = (1e-4, 1e-5)  # of the curves


def draw(results: Results) -> Figure:
    """Above, training curves per depth at two rates; below, depth by lr, the share that learns."""
    curves = results.curves
    depths = sorted(curves.depth.unique())
    figure = plt.figure(figsize=(2.1 * len(depths) + 0.8, 6.6))
    above, below = figure.subfigures(2, 1, height_ratios=[1.7, 1])
    shown = curves[np.isclose(curves.lr.to_numpy()[:, None], RATES, atol=0).any(1)]
    panels = above.subplots(len(RATES), len(depths), sharex=True, sharey=True, squeeze=False)
    for row, lr in zip(panels, RATES, strict=True):
        for axis, depth in zip(row, depths, strict=True):
            cell = curves[(curves.depth == depth) & np.isclose(curves.lr, lr, atol=0)]
            for optimizer in OPTIMIZERS:
                seeds = cell[cell.optimizer == optimizer].pivot(
                    index="step", columns="seed", values="train_loss"
                )
                colour = style.COLOUR[optimizer]
                axis.plot(seeds.index, seeds, color=colour, linewidth=0.4, alpha=0.4)
                middle = [median(values)[0] for values in seeds.to_numpy()]
                axis.plot(seeds.index, middle, **style.line(optimizer))
            axis.axhline(GUESSING, color="#999999", linewidth=0.8, linestyle=":")
            axis.set(yscale="log", ylim=(0.8 * shown.train_loss.min(), 2 * GUESSING))
            style.digits(axis)
        row[0].set_ylabel(f"training loss\nlr = {lr:g}")
    for axis, depth in zip(panels[0], depths, strict=True):
        axis.set_title(f"{depth} hidden layers")
    for axis in panels[-1]:
        axis.set_xlabel("updates")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    above.legend(handles, labels, loc="outside upper center", ncols=3)

    share = shares(results)
    maps = below.subplots(1, len(OPTIMIZERS), sharey=True)
    for axis, optimizer in zip(maps, OPTIMIZERS, strict=True):
        table = share[optimizer].unstack("depth")
        image = axis.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower")
        axis.grid(False)
        axis.set(title=style.NAME[optimizer], xlabel="hidden layers")
        axis.set_xticks(range(len(table.columns)), table.columns)
        axis.set_yticks(range(len(table.index)), [f"{lr:g}" for lr in table.index])
    maps[0].set_ylabel("lr")
    below.colorbar(image, ax=maps, label="share of seeds that learn", ticks=[0, 0.5, 1])
    note = (
        f"learns: training loss below {LEARNED_BELOW:.2f}, nine tenths of guessing; thick: median"
    )
    style.provenance(figure, results, note)
    return figure


# Claims -------------------------------------------------------------------------------------------


def shares(results: Results) -> pd.Series:
    """Share of the seeds that learned, by optimizer, depth and lr."""
    runs = results.runs
    learned = runs.lowest_loss < LEARNED_BELOW
    return learned.groupby([runs.optimizer, runs.depth, runs.lr]).mean()


def lowest(results: Results) -> dict[tuple[str, int, float], Estimate]:
    """By optimizer, depth and lr: the lowest record of the loss, mean over seeds.

    A loss that was never a number counts as guessing.
    """
    runs = results.runs
    loss = runs.lowest_loss.fillna(GUESSING)
    return {key: mean(cell) for key, cell in loss.groupby([runs.optimizer, runs.depth, runs.lr])}


def largest_rates(results: Results) -> str:
    """The largest lr at which most seeds learn, of each optimizer at each depth, in words."""
    learns, text = shares(results) > 0.5, []
    for depth in sorted(results.runs.depth.unique()):
        words = []
        for optimizer in ("laprop", "adam", "amsgrad"):
            rates = [lr for lr, yes in learns[optimizer, depth].items() if yes]
            words.append(f"{NAMES[optimizer]} {max(rates):.0e}" if rates
                         else f"{NAMES[optimizer]} nowhere")  # fmt: skip
        text.append(f"depth {depth}: {', '.join(words)}")
    return f"largest lr at which most seeds learn: {'; '.join(text)}"


def deep_nothing_above(results: Results) -> Measured:
    """At the greatest depth, at every lr above 1e-4: the lowest loss of Adam and of LaProp."""
    depth = results.runs.depth.max()
    cells = {
        key: cell
        for key, cell in lowest(results).items()
        if key[0] in ("adam", "laprop") and key[1] == depth and key[2] > 1e-4 * (1 + 1e-9)
    }
    held = decide(
        everywhere(cell.above(LEARNED_BELOW) for cell in cells.values()),
        somewhere(cell.below(LEARNED_BELOW) for cell in cells.values()),
    )
    text = ", ".join(f"{NAMES[o]} at {lr:g} {cell:.2f}" for (o, _, lr), cell in cells.items())
    learned = sum(cell.centre < LEARNED_BELOW for cell in cells.values())
    return Measured(f"lowest loss at depth {depth}: {text}; learned is below {LEARNED_BELOW:.2f}",
                    held, f"{learned} of {len(cells)} settings above 1e-4 learn")  # fmt: skip


def deep_larger_lr(results: Results) -> Measured:
    """Somewhere LaProp learns and Adam does not; nowhere the other way round."""
    cells = lowest(results)
    alone: dict[str, dict[tuple[int, float], float]] = {"laprop": {}, "adam": {}}
    for _, depth, lr in (key for key in cells if key[0] == "adam"):
        for one, other in (("laprop", "adam"), ("adam", "laprop")):
            alone[one][depth, lr] = everywhere(
                [cells[one, depth, lr].below(LEARNED_BELOW),
                 cells[other, depth, lr].above(LEARNED_BELOW)]
            )  # fmt: skip
    held = decide(somewhere(alone["laprop"].values()), somewhere(alone["adam"].values()))
    apart = [
        f"{NAMES[o]} alone learns at {sum(_alone(cells, o, *key) for key in found)}"
        for o, found in alone.items()
    ]
    return Measured(largest_rates(results), held,
                    f"{', '.join(apart)} of {len(alone['adam'])} settings")  # fmt: skip


def _alone(
    cells: dict[tuple[str, int, float], Estimate], optimizer: str, depth: int, lr: float
) -> bool:
    """Whether, by the means over seeds, it learns there and the other of Adam and LaProp not."""
    other = "adam" if optimizer == "laprop" else "laprop"
    mine, theirs = cells[optimizer, depth, lr], cells[other, depth, lr]
    return mine.centre < LEARNED_BELOW <= theirs.centre


def deep_faster(results: Results) -> Measured:
    """LaProp's mean loss over the training is lower, over all settings at which it or Adam learns.

    Each record is cut at log 10, so that a start that overshoots does not decide.
    """
    share = shares(results)
    either = (share["laprop"] > 0.5) | (share["adam"] > 0.5)
    curves = results.curves
    loss = curves.train_loss.fillna(GUESSING).clip(upper=GUESSING)
    whole = loss.groupby([curves.optimizer, curves.depth, curves.lr, curves.seed]).mean()
    laprop, adam = (whole[o].unstack("seed")[either] for o in ("laprop", "adam"))
    gap = paired(adam.mean(), laprop.mean())
    lower = int((laprop.mean(axis=1) < adam.mean(axis=1)).sum())
    return Measured(
        f"mean training loss, Adam minus LaProp: {gap:+.3f} over the {either.sum()} settings at "
        "which either learns",
        every_above([gap]),
        f"lower with LaProp at {lower} of {either.sum()} settings",
    )
