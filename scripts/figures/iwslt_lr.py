"""Where Adam gets stuck on IWSLT14: the final loss over learning rates, without and with warmup."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts.claims.fig05 import LR, MARGIN
from scripts.figures import style
from scripts.figures.fig05 import legend, look


def draw(results: Results) -> Figure:
    """Mean over seeds as lines, each seed as a point."""
    runs = results.runs
    if "lr" not in runs:  # the paper's scale has one
        runs = runs.assign(lr=results.manifest["settings"][LR])
    figure, axis = plt.subplots(figsize=(5.2, 3.6))
    for (optimizer, warmup), arm in runs.groupby(["optimizer", "warmup"]):
        line = look(optimizer, warmup)
        axis.plot(arm.groupby("lr").final_loss.mean(), **line)
        axis.plot(arm.lr, arm.final_loss, ".", color=line["color"], markersize=4)
    for below in (0, MARGIN):
        height = runs.unigram_loss.mean() - below
        axis.axhline(height, color="#999999", linewidth=0.8, linestyle=":")
    axis.set(xscale="log", xlabel="lr", ylabel="final training loss, bits")
    axis.set_xticks(sorted(runs.lr.unique()), [f"{lr:g}" for lr in sorted(runs.lr.unique())])
    axis.minorticks_off()
    legend(figure)
    note = f"dotted: what the words' frequencies alone give, and {MARGIN:g} below: stuck above that"
    style.provenance(figure, results, note)
    return figure
