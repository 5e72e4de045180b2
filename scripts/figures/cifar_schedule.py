"""Appendix C.7: what it changes if lr falls at epochs 81 and 122 in place of 80 and 120."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import Estimate, log_ratio, mean
from scripts.effects import Change, percent, ratio
from scripts.figures import style
from scripts.paper import NAMES

PAPER, README = "[80,120]", "[81,122]"  # the column `milestones`


def finding(results: Results) -> str:
    """The title."""
    found = {name: loss(results, name) for name in ("adam", "laprop")}
    text = ", ".join(f"{NAMES[name]}'s by {percent(log)[0]:+.1f} %" for name, log in found.items())
    return (
        "CIFAR-10: lowering lr at epochs 81 and 122, not 80 and 120, changes the final training "
        f"loss, {text}"
    )


def draw(results: Results) -> Figure:
    """By epoch, the training loss of one schedule over that of the other."""
    figure, axis = plt.subplots(figsize=(7, 3.2))
    for optimizer, curves in results.curves.groupby("optimizer"):
        losses = curves.set_index(["milestones", "seed", "step"]).train_loss
        logs = np.log(losses[README] / losses[PAPER])
        by_epoch = [mean(seeds.to_numpy()) for _, seeds in logs.groupby("step")]
        epochs = logs.index.unique("step")
        style.geometric(axis, epochs, by_epoch, **style.line(str(optimizer)))
    axis.axhline(1, color="#999999", linewidth=0.8)
    axis.set(
        xlabel="epochs", ylabel="training loss, lr falls at 81 and 122\n/ lr falls at 80 and 120"
    )
    axis.legend()
    style.provenance(figure, results, "geometric mean over seeds with 95 % intervals")
    return figure


def loss(results: Results, optimizer: str) -> Estimate:
    """Logarithm of the final training loss of the readme's schedule over the paper's."""
    runs = _runs(results, optimizer).train_loss
    return log_ratio(runs[README], runs[PAPER])


def accuracy(results: Results, optimizer: str) -> Estimate:
    """Final test accuracy, in percentage points, of the readme's schedule less the paper's."""
    runs = 100 * _runs(results, optimizer).test_accuracy
    return mean((runs[README] - runs[PAPER]).to_numpy())


def row_changes(results: Results) -> list[Change]:
    """The change of LaProp's training loss where its lr falls later."""
    changed = percent(loss(results, "laprop"))
    return [Change(f"LaProp's training loss (small model, {results.seeds})", *changed)]


def cifar_schedule(results: Results) -> str:
    """The effect of the authors' milestones on the end of a training, for both optimizers."""
    text = [
        f"{NAMES[o]} training loss {ratio(loss(results, o))} times, "
        f"test accuracy {accuracy(results, o):+.2f} points"
        for o in ("laprop", "adam")
    ]
    return f"at the end: {'; '.join(text)}"


def _runs(results: Results, optimizer: str) -> pd.DataFrame:
    runs = results.runs[results.runs.optimizer == optimizer]
    return runs.set_index(["milestones", "seed"]).sort_index()
