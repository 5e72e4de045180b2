"""Figure 11: Rainbow's training curve in every game."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.ndimage import gaussian_filter1d

from experiments.common.records import Results
from scripts.claims.fig11 import ARM, PAPER, Arm, name
from scripts.figures import style

SIGMA = 2  # points, of the Gaussian that smooths a training curve (P C.6)


def draw(results: Results) -> Figure:
    """A panel for each game: mean over seeds and the range of the seeds, smoothed."""
    games = sorted(results.runs.game.unique())
    columns = min(len(games), 5)
    rows = -(-len(games) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(2.2 * columns, 4.5), 0.7 + 2.1 * rows), squeeze=False
    )
    for axis in axes.flat[len(games) :]:
        axis.set_axis_off()
    for axis, game in zip(axes.flat, games, strict=False):
        curves(axis, results.curves[results.curves.game == game], "life_score")
        axis.set_title(game.replace("_", " "))
    for axis in axes[-1]:
        axis.set_xlabel("steps of the agent")
    for axis in axes[:, 0]:
        axis.set_ylabel("score of a life")
    legend(figure, arms(results))
    style.provenance(figure, results, f"mean and range of the seeds, Gaussian sigma {SIGMA} points")
    return figure


def arms(results: Results) -> list[Arm]:
    """The combinations of optimizer and epsilon that were run."""
    return sorted(set(results.runs[ARM].itertuples(index=False, name=None)))


def look(arm: Arm) -> dict[str, object]:
    """Colour by optimizer; dashed with the other one's epsilon."""
    dash = "solid" if arm in PAPER else (0, (3, 1.5))
    return {"color": style.COLOUR[arm[0]], "linestyle": dash, "linewidth": 1.3}


def curves(axis: Axes, table: pd.DataFrame, value: str) -> None:
    """Every arm of one game: mean over seeds and their range, of one logged number."""
    table = table.dropna(subset=value)
    for arm, part in table.groupby(ARM):
        seeds = part.pivot(index="step", columns="seed", values=value).ffill().bfill()
        smooth = gaussian_filter1d(seeds.to_numpy(), SIGMA, axis=0)
        axis.plot(seeds.index, smooth.mean(1), **look(arm))
        ends = np.min(smooth, 1), np.max(smooth, 1)
        axis.fill_between(seeds.index, *ends, color=style.COLOUR[arm[0]], alpha=0.1, linewidth=0)
    style.steps(axis)


def legend(figure: Figure, shown: list[Arm]) -> None:
    """One legend of the arms; solid: the epsilon that the paper's runs had."""
    figure.legend(
        [Line2D([], [], **look(arm)) for arm in shown],
        [name(arm).replace(", ", ", ε ") for arm in shown],
        loc="outside upper center",
        ncols=4 if figure.get_figwidth() > 6 else 2,
    )
