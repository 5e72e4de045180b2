"""Appendix C.6: what the authors' deviations from their text make of Rainbow's training.

The area under the training curve, as in Figure 11, is divided by the mean area of the program
without deviations, of the same optimizer in the same game; the change is averaged over the games.
A game in which a deviation changes no run is left out: Breakout has neither dueling nor n-step
returns, and in a short training no life may last until a cut-off.
"""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import Estimate, interval, mean
from scripts.effects import Change, magnitude
from scripts.figures import style
from scripts.paper import NAMES

TEXT = "false"  # the column `authors` of the program as the paper's text has it
LABEL = {  # also the subject of a sentence
    "[noise]": "noise shared on 5 % of the steps",
    "[dueling]": "a value stream without a gradient",
    "[multi_step]": "discounting returns backwards",
    "[cutoff]": "a cut-off at 9,950 and 5,000 steps",
    "true": "the combination of all four",
}
SHORT = {
    TEXT: "none",
    "[noise]": "noise",
    "[dueling]": "value stream",
    "[multi_step]": "returns",
    "[cutoff]": "cut-off",
    "true": "all four",
}


def finding(results: Results) -> str:
    """The title."""
    table = changes(results)
    acting = [d for d in present(table) if games(table, d)]
    largest = max(acting, key=lambda d: abs(found(table, "laprop", d).centre))
    change = found(table, "laprop", largest)
    verb = "raises" if change.centre > 0 else "lowers"
    centre, low, high = magnitude(100 * change.centre, 100 * change.low, 100 * change.high)
    where = _listed(games(table, largest))
    suite = "Atari" if results.scale == "paper" else "MinAtar"
    return (
        f"In {suite} {LABEL[largest]} {verb} the area under LaProp's training curve by "
        f"{centre:.0f} % {interval(low, high, '.0f')} in {where}"
    )


def draw(results: Results) -> Figure:
    """A row per deviation, its mean change and interval per optimizer, and a mark per game."""
    table = changes(results)
    deviations = present(table)
    figure, axis = plt.subplots(figsize=(7.6, 0.9 + 0.6 * len(deviations)))
    axis.axvline(0, color="#999999", linewidth=0.8)
    for row, deviation in enumerate(deviations):
        if not games(table, deviation):
            axis.annotate("changes no run", (0, row), (-6, 0), textcoords="offset points",
                          va="center", ha="right", fontsize=8)  # fmt: skip
            continue
        for optimizer, shift in (("adam", -0.13), ("laprop", 0.13)):
            change = 100 * style.intervals([found(table, optimizer, deviation)])
            look: dict[str, Any] = {"color": style.COLOUR[optimizer]}
            of_game = 100 * acted(table, optimizer, deviation).groupby("game").mean()
            axis.plot(of_game, [row + shift] * len(of_game), "|", markersize=6, alpha=0.7, **look)
            label = NAMES[optimizer] if row == 0 else None
            look |= {"fmt": "o", "markersize": 4, "capsize": 3, "label": label}
            style.errorbars(axis, row + shift, change, across=True, **look)
    axis.set(yticks=range(len(deviations)), yticklabels=[LABEL[d] for d in deviations])
    axis.set_xlabel("change of the area under the training curve, %")
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.legend()
    note = (
        "mean over the games that a deviation changes, so rows of other games are not comparable; "
        "95 % interval over seeds; |: one game"
    )
    style.provenance(figure, results, note)
    return figure


def changes(results: Results) -> pd.Series:
    """Relative change of each run's area: index optimizer, authors, game, seed."""
    area = results.runs.set_index(["optimizer", "authors", "game", "seed"]).area
    text = area.xs(TEXT, level="authors")
    scale = text.groupby(["optimizer", "game"]).mean()
    return ((area - text) / scale).reorder_levels(area.index.names).sort_index()


def present(table: pd.Series) -> list[str]:
    """The deviations that were run."""
    return [d for d in LABEL if d in table.index.get_level_values("authors")]


def games(table: pd.Series, deviation: str) -> list[str]:
    """The games in which a deviation changes a run of either optimizer."""
    every = table.xs(deviation, level="authors")
    return sorted(set(every[every != 0].index.get_level_values("game")))


def acted(table: pd.Series, optimizer: str, deviation: str) -> pd.Series:
    """The changes that a deviation makes in the games in which it makes any, by game and seed."""
    of_runs = table.loc[optimizer, deviation]
    return of_runs[of_runs.index.get_level_values("game").isin(games(table, deviation))]


def found(table: pd.Series, optimizer: str, deviation: str) -> Estimate:
    """The mean change over those games, with its interval over seeds."""
    return mean(acted(table, optimizer, deviation).groupby("seed").mean().to_numpy())


def told(table: pd.Series, optimizer: str, deviation: str) -> str:
    """``+3.1 % [-1.0, +7.2]``."""
    change = found(table, optimizer, deviation)
    return f"{100 * change.centre:+.1f} % {interval(100 * change.low, 100 * change.high, '+.1f')}"


def row_changes(results: Results, deviation: str) -> list[Change]:
    """The change of LaProp's area, in the games in which the deviation changes anything."""
    table = changes(results)
    if not (where := games(table, deviation)):
        return []
    number = f"LaProp's area in MinAtar's {_listed(where)} (small model, {results.seeds})"
    return [Change.of(number, found(100 * table, "laprop", deviation))]


def rainbow_authors(results: Results, deviation: str) -> str:
    """The effect of one of the authors' deviations on the area under Rainbow's training curve."""
    table = changes(results)
    changed = games(table, deviation)
    if not changed:
        return "changes no run"
    text = ", ".join(f"{NAMES[o]} {told(table, o, deviation)}" for o in ("laprop", "adam"))
    every = len(changed) == len(table.index.unique("game"))
    where = ""
    if not every:
        same = sorted(set(table.index.unique("game")) - set(changed))
        has = {"[dueling]": "value stream", "[multi_step]": "n-step returns"}.get(deviation)
        reason = f"has no {has}, so nothing changes there" if has else "does not change"
        where = f" in {_listed(changed)}; {_listed(same)} {reason}"
    return f"area under the training curve: {text}{where}"


def _listed(names: list[str]) -> str:
    return " and ".join(name.replace("_", " ") for name in names)
