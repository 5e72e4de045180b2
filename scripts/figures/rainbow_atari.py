"""Two games of Atari by a small network that learns from early on: the curves of Figure 11."""

import numpy as np
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import interquartile_mean
from scripts.figures import fig11


def finding(results: Results) -> str:
    """The title: both areas where the seeds are too few for an interval of their difference."""
    table = fig11.areas(results)
    if np.isfinite(fig11.gap(table, *fig11.PAPER).error):
        return fig11.finding(results)
    laprop, adam = (interquartile_mean(table[arm]) for arm in fig11.PAPER)
    return (
        f"{results.runs.game.nunique()} games of Atari, undecided with {results.seeds}: the area "
        f"under LaProp's training curve is {laprop:.2f}, under Adam's {adam:.2f}, each with its ε"
    )


def draw(results: Results) -> Figure:
    """A panel for each game."""
    return fig11.draw(results)
