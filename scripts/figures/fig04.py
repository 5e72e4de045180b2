"""Figure 4: training of very deep fully connected nets on MNIST, and who learns at all."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import median
from scripts.claims.fig04 import GUESSING, LEARNED_BELOW, shares
from scripts.figures import style

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
