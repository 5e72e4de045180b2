"""Appendix C.6: what the authors' deviations from their text make of Rainbow's training.

The area under the training curve, as in Figure 11, is divided by the mean area of the program
without deviations, of the same optimizer in the same game; the change is averaged over the games.
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import Estimate, mean
from scripts.figures import style

TEXT = "false"  # the column `authors` of the program as the paper's text has it
LABEL = {
    "[noise]": "noise shared on 5 % of the steps",
    "[dueling]": "value stream without a gradient",
    "[multi_step]": "returns discounted backwards",
    "[cutoff]": "cut-off at 9,950 and 5,000 steps",
    "true": "all four",
}


def finding(results: Results) -> str:
    """The title."""
    table = changes(results)
    deviations = [d for d in LABEL if d in table.index.get_level_values("authors")]
    largest = max(deviations, key=lambda d: abs(found(table, "laprop", d).centre))
    return (
        f"The largest change that a deviation makes for LaProp is "
        f"{told(found(table, 'laprop', largest))}: {LABEL[largest]}"
    )


def draw(results: Results) -> Figure:
    """A row per deviation, its mean change and interval per optimizer, and a dot per game."""
    table = changes(results)
    deviations = [d for d in LABEL if d in table.index.get_level_values("authors")]
    figure, axis = plt.subplots(figsize=(7, 0.9 + 0.6 * len(deviations)))
    for row, deviation in enumerate(deviations):
        for optimizer, shift in (("adam", -0.13), ("laprop", 0.13)):
            change = found(table, optimizer, deviation)
            look = {"color": style.COLOUR[optimizer]}
            games = 100 * table.loc[optimizer, deviation].groupby("game").mean()
            axis.plot(games, [row + shift] * len(games), "|", markersize=6, alpha=0.7, **look)
            axis.errorbar(
                100 * change.centre,
                row + shift,
                xerr=[[100 * (change.centre - change.low)], [100 * (change.high - change.centre)]],
                fmt="o",
                markersize=4,
                capsize=3,
                label=style.NAME[optimizer] if row == 0 else None,
                **look,
            )
    axis.axvline(0, color="#999999", linewidth=0.8)
    axis.set(yticks=range(len(deviations)), yticklabels=[LABEL[d] for d in deviations])
    axis.set_xlabel("change of the area under the training curve, %")
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.legend()
    style.provenance(figure, results, "mean over games, 95 % interval over seeds; | one game")
    return figure


def changes(results: Results) -> pd.Series:
    """Relative change of each run's area: index optimizer, authors, game, seed."""
    area = results.runs.set_index(["optimizer", "authors", "game", "seed"]).area
    text = area.xs(TEXT, level="authors")
    scale = text.groupby(["optimizer", "game"]).mean()
    return ((area - text) / scale).reorder_levels(area.index.names).sort_index()


def found(table: pd.Series, optimizer: str, deviation: str) -> Estimate:
    """The mean change over games, with its interval over seeds."""
    return mean(table.loc[optimizer, deviation].groupby("seed").mean().to_numpy())


def told(change: Estimate) -> str:
    """``+3.1 % [-1.0, +7.2]``."""
    return f"{100 * change.centre:+.1f} % [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
