"""Figure 6: Rainbow, mean over games, and on Breakout.

The authors' logs of Breakout are drawn whole: Adam's goes on to 30 M steps, LaProp's ends at 12 M.
At the paper's scale ours stand in the same panel.
"""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d

from experiments.common.records import Results, load
from scripts import make_authors
from scripts.claims.fig11 import ends, mean_curves
from scripts.figures import style
from scripts.figures.fig05 import blank
from scripts.figures.fig11 import SIGMA, arms, curves, legend, look


def draw(results: Results | None) -> Figure:
    """Mean over the games of fig11, then Breakout. ``results``: of Breakout."""
    games = load("fig11")
    beside = results is not None and results.scale != "paper"
    figure, axes = plt.subplots(1, 2 + beside, figsize=(9 if beside else 7, 3))
    if games is None:
        blank(axes[0], "mean over games: not run here")
    else:
        mean(axes[0], games)
    authors(axes[1])
    if results is not None:
        curves(axes[-1], results.curves, "evaluation" if not beside else "life_score")
    if beside:
        axes[2].set(title="Breakout of MinAtar", ylabel="score of a life", xlabel="steps")
    shown = games or results
    if shown is not None:
        legend(figure, arms(shown))
    else:
        axes[1].legend(loc="lower right")
    note = "b: the authors' runs as published, one each, two evaluations to a point, later nine"
    if results is None:
        style.below(figure, f"{note}; ours: not run")
    else:
        style.provenance(figure, results, f"mean and range of the seeds, sigma {SIGMA}; {note}")
    return figure


def mean(axis: Axes, games: Results) -> None:
    """Mean over games of the curves, each on the scale of its game."""
    table, scale = mean_curves(games), ends(games)
    span = scale.one - scale.zero
    table = table.sub(scale.zero, axis=0, level="game").div(span[span > 0], axis=0, level="game")
    for arm, curve in table.groupby("step").mean().items():
        axis.plot(curve.index, gaussian_filter1d(curve, SIGMA), **look(arm))
    style.steps(axis)
    count = games.runs.game.nunique()
    axis.set(title=f"{count} games", ylabel="score of a life, normalised", xlabel="steps")


def authors(axis: Axes) -> None:
    """The authors' two logs with the standard error that the games make."""
    for optimizer, log in make_authors.load("rainbow").groupby("optimizer"):
        axis.errorbar(
            log.agent_steps,
            log["mean"],
            yerr=log.standard_error,
            color=style.COLOUR[optimizer],
            label=style.NAME[optimizer],
            marker=".",
            markersize=3,
            linewidth=0.9,
            elinewidth=0.6,
        )
    axis.axvline(make_authors.WITHIN, color="#999999", linewidth=0.8, linestyle=":")
    axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M")
    axis.set(title="Breakout, the authors' runs", ylabel="score of a game", xlabel="steps")
