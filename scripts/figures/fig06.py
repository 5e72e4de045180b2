"""Figure 6, section 5.5: Rainbow, mean over games, and on Breakout.

The authors' logs of Breakout are drawn whole: Adam's goes on to 30 M steps, LaProp's ends at 12 M.
At the paper's scale ours stand in the same panel.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm

from experiments.common.records import Results, load
from experiments.common.stats import ALPHA, every_above, maxima_by_chance, paired
from scripts import make_authors
from scripts.effects import difference
from scripts.figures import style
from scripts.figures.fig05 import blank
from scripts.figures.fig11 import (
    ARM,
    LARGE,
    PAPER,
    SMALL,
    SMOOTHED,
    Arm,
    arms,
    band,
    curves,
    ends,
    legend,
    name,
    seed_curves,
)
from scripts.paper import NAMES, REDUCED, Measured

REPORTED = {"laprop": 607.35, "adam": 522.95}  # the best evaluations in the paper (5.5)


def finding(results: Results | None) -> str:
    """The title."""
    best = make_authors.load("rainbow_best").set_index(["optimizer", "within"])["mean"]
    text = (
        "Best evaluation on Breakout in the authors' two runs: LaProp "
        f"{best['laprop', 'both logs']:.0f}, Adam {best['adam', 'both logs']:.0f} within 12M steps "
        f"and {best['adam', 'whole log']:.0f} later"
    )
    if results is None:
        return text
    found = by_seed(results, "best_evaluation")
    gap = paired(*(found[arm] for arm in PAPER))
    scale = REDUCED.get(results.scale, "").lower()
    suite = " on MinAtar" if results.scale == "small" else ""
    return f"{text}; {scale}ours{suite}, LaProp minus Adam: {gap:+.1f}"


def draw(results: Results | None) -> Figure:
    """The mean over the games of fig11, then Breakout, whose ``results`` these are."""
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
    if results is not None and beside:
        title = "Breakout of MinAtar" if results.scale == "small" else "Breakout, ours"
        axes[2].set(title=title, ylabel="score of a life, points", xlabel="steps of the agent")
    shown = games or results
    if shown is not None:
        legend(figure, arms(shown))
    else:
        axes[1].legend(loc="lower right")
    of_fig11 = f" ({games.runs.game.nunique()} games, {games.seeds})" if games else ""
    note = (
        f"first panel{of_fig11}: in each game the first point is 0, the highest mean 1; second "
        "panel: the authors' runs, one each; a point is the mean of two evaluations, or of nine "
        "after 12M steps; dotted: 12M, where the paper's runs end; ★: best evaluations"
    )
    if results is None:
        style.below(figure, f"{note}; ours: not run")
    else:
        style.provenance(figure, results, f"{SMOOTHED}; {note}")
    return figure


def mean(axis: Axes, games: Results) -> None:
    """The mean over games of the curves, each normalised for its game."""
    table, scale = seed_curves(games), ends(games)
    span = scale.one - scale.zero
    table = table.sub(scale.zero, axis=0, level="game").div(span[span > 0], axis=0, level="game")
    whole = table.groupby("step").mean()
    for arm in arms(games):
        band(axis, arm, whole[arm])
    style.steps(axis)
    count = games.runs.game.nunique()
    suite = "Atari" if games.scale == "paper" else "MinAtar"
    axis.set(
        title=f"mean over {count} games of {suite}",
        ylabel="score of a life, normalised",
        xlabel="steps of the agent",
    )


def authors(axis: Axes) -> None:
    """The authors' two logs, with the standard error over the games of an evaluation."""
    for optimizer, log in make_authors.load("rainbow").groupby("optimizer"):
        axis.errorbar(
            log.agent_steps,
            log["mean"],
            yerr=log.standard_error,
            color=style.COLOUR[optimizer],
            label=NAMES[optimizer],
            marker=".",
            markersize=3,
            linewidth=0.9,
            elinewidth=0.6,
        )
    for star in make_authors.load("rainbow_best").itertuples():
        axis.plot(star.agent_steps, star.mean, "*", color=style.COLOUR[star.optimizer])
    for optimizer, best in REPORTED.items():
        style.paper(axis, f"{NAMES[optimizer]} {best:.0f}", y=best)
    axis.set_ylim(top=1.15 * max(REPORTED.values()))
    axis.axvline(make_authors.WITHIN, color="#999999", linewidth=0.8, linestyle=":")
    axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M")
    axis.set(
        title="Breakout, the authors' runs",
        ylabel="score of a game, points",
        xlabel="steps of the agent",
    )


# Claims -------------------------------------------------------------------------------------------


def by_seed(results: Results, column: str) -> dict[Arm, pd.Series]:
    """One number of every run: for each arm a series by seed."""
    table = results.runs.pivot(index="seed", columns=ARM, values=column)
    return {arm: table[arm] for arm in table}


def _ahead(results: Results, column: str, what: str) -> Measured:
    """Whether LaProp's number is larger, each with its own epsilon; the text has equal ones too."""
    found = by_seed(results, column)
    equal = ((("laprop", epsilon), ("adam", epsilon)) for epsilon in (SMALL, LARGE))
    text, gaps = [], []
    for a, b in (PAPER, *(pair for pair in equal if found.keys() >= set(pair))):
        gaps.append(paired(found[a], found[b]))
        text.append(f"{found[a].mean():.2f} ({name(a)}) against {found[b].mean():.2f} ({name(b)}), "
                    f"difference {difference(gaps[-1])}")  # fmt: skip
    return Measured(f"{what}: {text[0]}; not part of the claim: {'; '.join(text[1:])}",
                    every_above(gaps[:1]), f"LaProp minus Adam: {gaps[0].centre:+.2f} points; "
                                           "the claim needs more than 0",
                    [difference(gap) for gap in gaps])  # fmt: skip


def rainbow_breakout(results: Results) -> Measured:
    """Whether LaProp's largest evaluation is larger, with one number for each seed.

    The largest of many evaluations is partly luck. Both optimizers have equally many, so that the
    difference is 0 on average where the optimizers do not differ.
    """
    return _ahead(results, "best_evaluation", "best evaluation of a run, mean over seeds")


def breakout_earlier(results: Results) -> Measured:
    """Whether the area under LaProp's training curve is larger."""
    return _ahead(results, "area", "mean score of a life over the whole run")


def rainbow_breakout_logs() -> Measured:
    """Whether the maxima of the authors' two logs are further apart than chance explains.

    Only steps that both logs have count, in bins of two evaluations of 20 games.
    """
    table = make_authors.load("rainbow_best").set_index(["optimizer", "within"])
    both = _bins("mean")
    p = maxima_by_chance(both.laprop, both.adam)
    text, gaps = [], {}
    for within in ("both logs", "whole log"):
        ours, theirs = table.loc[("laprop", within)], table.loc[("adam", within)]
        error = (ours.standard_error**2 + theirs.standard_error**2) ** 0.5
        gaps[within] = ours["mean"] - theirs["mean"]
        text.append(
            f"{within}: LaProp {ours['mean']:.1f} ± {ours.standard_error:.1f}, Adam "
            f"{theirs['mean']:.1f} ± {theirs.standard_error:.1f} at {theirs.agent_steps / 1e6:g} M "
            f"steps, z = {gaps[within] / error:.2f}"
        )
    ahead = bool(both.laprop.max() > both.adam.max())
    return Measured(
        f"best of all evaluations, {'; '.join(text)}; best bins of two evaluations "
        f"{both.laprop.max():.0f} and {both.adam.max():.0f}, which are so far apart by chance with "
        f"p = {p:.2f}",
        ahead if p < ALPHA else None,
        f"LaProp minus Adam: {gaps['both logs']:+.1f} points within 12 M steps, "
        f"{gaps['whole log']:+.1f} with the whole of Adam's log",
    )


def breakout_logs_earlier() -> Measured:
    """Whether the first bins of the authors' two logs differ by more than their games' errors."""
    score, error = _bins("mean"), _bins("standard_error")
    z = (score.laprop - score.adam) / np.hypot(error.laprop, error.adam)
    line = norm.isf(ALPHA / 2 / len(z))  # Bonferroni over the bins
    ahead = z > line
    lead = int(ahead.cummin().sum())
    until = score.index[max(lead - 1, 0)]
    text = (
        f"LaProp ahead by more than {line:.1f} standard errors of the games in "
        + (f"the first {lead} of {len(z)} bins, centred at {score.index[0] / 1e6:.1f} to "
           f"{until / 1e6:.1f} M steps" if lead else "none of the first bins")
        + f". Of the other {len(z) - lead} bins LaProp is ahead by as much in "
        f"{int(ahead.iloc[lead:].sum())}, Adam in {int((z < -line).iloc[lead:].sum())}"
    )  # fmt: skip
    held = True if lead else False if z.iloc[0] < -line else None
    at = f"at {score.index[2] / 1e6:.1f} M steps LaProp has {score.laprop.iloc[2]:.0f} points"
    return Measured(text, held, f"{at}, Adam {score.adam.iloc[2]:.0f}")


def _bins(column: str) -> pd.DataFrame:
    """A column of those of the authors' bins that both logs have, by step and optimizer."""
    bins = make_authors.load("rainbow")
    both = bins[bins.agent_steps <= make_authors.WITHIN]
    return both.pivot(index="agent_steps", columns="optimizer", values=column)
