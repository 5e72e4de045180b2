"""Figure 7: error of an LSTM on IMDB against nu, a panel per level of label noise."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import interval
from scripts.claims.fig07 import cells
from scripts.figures import style


def draw(results: Results) -> Figure:
    """Mean and interval over seeds; the values of nu at equal distances."""
    errors = cells(results)
    flips = sorted(set(errors.columns.get_level_values("flip")))
    figure, axes = plt.subplots(1, len(flips), figsize=(2.5 * len(flips), 2.9), sharey=True)
    for axis, flip in zip(axes, flips, strict=True):
        for optimizer in ("adam", "amsgrad", "laprop"):
            line(axis, optimizer, errors[flip][optimizer])
        axis.set_title(f"{flip:.0%} of the labels wrong")
        axis.set_xlabel("ν")
    axes[0].set_ylabel("error on clean test reviews, %")
    axes[0].legend()
    style.provenance(figure, results, "lr 0.002, µ 0.9; mean of the last 3 epochs, 95 % intervals")
    return figure


def line(axis: Axes, optimizer: str, errors: pd.DataFrame) -> None:
    """Mean over seeds (rows) with its interval against the columns, at equal distances."""
    centre, low, high = np.transpose([interval(errors[value]) for value in errors])
    places = np.arange(errors.shape[1])
    axis.plot(places, centre, marker=".", markersize=4, **style.line(optimizer))
    axis.fill_between(places, low, high, color=style.COLOUR[optimizer], alpha=0.2, linewidth=0)
    axis.set_xticks(places, [f"{value:g}" for value in errors], rotation=45, fontsize=7)
