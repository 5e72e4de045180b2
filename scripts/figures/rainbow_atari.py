"""Two games of Atari by a small network that learns from early on: the curves of Figure 11."""

from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts.figures import fig11


def finding(results: Results) -> str:
    """The title."""
    return fig11.finding(results)


def draw(results: Results) -> Figure:
    """A panel for each game."""
    return fig11.draw(results)
