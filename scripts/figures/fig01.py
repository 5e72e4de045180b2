"""Figure 1: training loss of a two-layer net on MNIST at mu 0.9, nu 0.7."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import median
from scripts.figures import style


def draw(results: Results) -> Figure:
    """A panel per learning rate: every seed thin, the median with its interval thick."""
    curves = results.curves
    rates = sorted(curves.lr.unique())
    figure, axes = plt.subplots(
        1, len(rates), figsize=(3.6 * len(rates) + 0.6, 3.4), sharey=True, squeeze=False
    )
    for axis, lr in zip(axes[0], rates, strict=True):
        for optimizer, cell in curves[curves.lr == lr].groupby("optimizer"):
            seeds = cell.pivot(index="step", columns="seed", values="train_loss")
            colour = style.COLOUR[str(optimizer)]
            axis.plot(seeds.index, seeds, color=colour, linewidth=0.3, alpha=0.25)
            middle, low, high = np.array([median(row) for row in seeds.to_numpy()]).T
            axis.plot(seeds.index, middle, **style.line(str(optimizer)))
            axis.fill_between(seeds.index, low, high, color=colour, alpha=0.25, linewidth=0)
        axis.set(yscale="log", xlabel="updates", title=f"lr = {lr:g}")
    axes[0, 0].set_ylabel("training loss")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=3,
        title="two-layer net on MNIST, µ 0.9, ν 0.7: µ > √ν",
    )
    every = results.manifest["settings"]["task.log_every"]
    style.provenance(
        figure, results, f"mean over {every} minibatches; thick: median with 95 % interval"
    )
    return figure
