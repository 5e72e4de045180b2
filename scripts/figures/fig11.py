"""Figure 11, section 5.5 and appendix C.6: Rainbow's training curve in every game.

Runs are compared by the area under the training curve, that is the score of a life averaged over
the whole run (a run's ``area``). It is normalised for each game: 0 is the first point of the
curves, averaged over all runs, and 1 is the highest point of the mean curves of the arms. Over
games and seeds it is the interquartile mean (Agarwal et al. 2021); its interval is the jackknife's
over seeds.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.common.records import Results
from experiments.common.stats import (
    Estimate,
    every_above,
    interquartile_mean,
    jackknife,
    probability_of_improvement,
)
from scripts.effects import difference
from scripts.figures import style
from scripts.paper import NAMES, Measured

SMALL, LARGE = 1e-15, 1.5e-4
ARM = ["optimizer", "epsilon"]
Arm = tuple[str, float]
PAPER: tuple[Arm, Arm] = ("laprop", SMALL), ("adam", LARGE)  # LaProp's and Adam's epsilon there
SIGMA = 2  # points; the width of the Gaussian that smooths a training curve (P C.6)
SMOOTHED = f"mean, bands: range of the seeds, smoothed by a Gaussian of {SIGMA} points"


def finding(results: Results) -> str:
    """The title."""
    table = areas(results)
    text = (
        "The area under LaProp's training curve minus that under Adam's is "
        f"{gap(table, *PAPER):+.3f} over {results.runs.game.nunique()} games, each with its own ε"
    )
    return f"{text}; {_at_equal(table)} at equal ε" if _equal(table) else text


def draw(results: Results) -> Figure:
    """A panel for each game: mean over seeds and the range of the seeds, smoothed."""
    games = sorted(results.runs.game.unique())
    columns = min(len(games), 5)
    rows = -(-len(games) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(2.2 * columns, 7), 0.7 + 2.1 * rows), squeeze=False
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
    style.provenance(figure, results, SMOOTHED)
    return figure


def arms(results: Results) -> list[Arm]:
    """The combinations of optimizer and epsilon that were run."""
    return sorted(set(results.runs[ARM].itertuples(index=False, name=None)))


def look(arm: Arm) -> dict[str, Any]:
    """The colour of the optimizer; dashed where the epsilon is the other optimizer's."""
    dash = "solid" if arm in PAPER else (0, (3, 1.5))
    return {"color": style.COLOUR[arm[0]], "linestyle": dash, "linewidth": 1.3}


def curves(axis: Axes, table: pd.DataFrame, value: str) -> None:
    """Draw one logged number of one game."""
    table = table.dropna(subset=value)
    for arm, part in table.groupby(ARM):
        band(axis, arm, part.pivot(index="step", columns="seed", values=value).ffill().bfill())
    style.steps(axis)


def band(axis: Axes, arm: Arm, seeds: pd.DataFrame) -> None:
    """Draw the mean over seeds, and their range; a column of ``seeds`` is a curve over steps."""
    style.smoothed(axis, seeds, SIGMA, alpha=0.1, **look(arm))


def legend(figure: Figure, shown: list[Arm]) -> None:
    """One legend of the arms; solid: the epsilon that the paper's runs had."""
    figure.legend(
        [Line2D([], [], **look(arm)) for arm in shown],
        [name(arm).replace(", ", ", ε ") for arm in shown],
        loc="outside upper center",
        ncols=4 if figure.get_figwidth() > 6 else 2,
    )


# Claims -------------------------------------------------------------------------------------------


def name(arm: Arm) -> str:
    """``Adam, 1.5e-4``."""
    return f"{NAMES[arm[0]]}, {style.short(arm[1])}"


def seed_curves(results: Results) -> pd.DataFrame:
    """Training score: index game and step, columns optimizer, epsilon, seed.

    A point during which no life ended has the score of the point before. Points before the end of
    the first life have that life's score.
    """
    curves = results.curves.dropna(subset="lives")
    table = curves.pivot(index=["game", "step"], columns=[*ARM, "seed"], values="life_score")
    return table.groupby("game").ffill().groupby("game").bfill().sort_index(axis=1)


def mean_curves(results: Results) -> pd.DataFrame:
    """Mean over seeds of the training score: index game and step, columns optimizer, epsilon."""
    return seed_curves(results).T.groupby(ARM).mean().T


def ends(results: Results) -> pd.DataFrame:
    """The scores that count as 0 and 1 in each game: columns ``zero`` and ``one``."""
    curves = mean_curves(results)
    zero = curves.groupby("game").first().mean(axis=1)
    return pd.DataFrame({"zero": zero, "one": curves.groupby("game").max().max(axis=1)})


def areas(results: Results) -> dict[Arm, np.ndarray]:
    """The normalised areas of each optimizer and epsilon, an array (seeds, games)."""
    scale = ends(results)
    table = results.runs.pivot(index="seed", columns=[*ARM, "game"], values="area")
    table = table.sort_index(axis=1)
    arms = dict.fromkeys((o, e) for o, e, _ in table.columns)
    # where no arm learns the game, all areas are 0
    span = (scale.one - scale.zero).replace(0, np.inf)
    return {arm: ((table[arm] - scale.zero) / span).to_numpy() for arm in arms}


def gap(table: dict[Arm, np.ndarray], a: Arm, b: Arm) -> Estimate:
    """Interquartile mean of one arm minus that of another."""
    return jackknife(lambda x, y: interquartile_mean(x) - interquartile_mean(y), table[a], table[b])


def compared(table: dict[Arm, np.ndarray], a: Arm, b: Arm) -> str:
    """Both interquartile means, their difference, and the probability that a run of a is better."""
    return (
        f"{interquartile_mean(table[a]):.2f} ({name(a)}) against "
        f"{interquartile_mean(table[b]):.2f} ({name(b)}), difference "
        f"{gap(table, a, b):+.3f}, probability of improvement "
        f"{probability_of_improvement(table[a], table[b]):.2f}"
    )


def _equal(table: dict[Arm, np.ndarray]) -> list[tuple[Arm, Arm]]:
    """LaProp and Adam with the same epsilon, for both epsilons, if all of these were run."""
    pairs = [(("laprop", epsilon), ("adam", epsilon)) for epsilon in (SMALL, LARGE)]
    return pairs if all(arm in table for pair in pairs for arm in pair) else []


def _at_equal(table: dict[Arm, np.ndarray]) -> str:
    """What the claim ``rainbow_earlier_equal`` decides, in words."""
    held = every_above(gap(table, *pair) for pair in _equal(table))
    return {True: "larger too", False: "not larger", None: "undecided"}[held]


def by_game(results: Results, table: dict[Arm, np.ndarray]) -> str:
    """In how many games LaProp's mean area is larger than Adam's in the paper's arms, and where."""
    laprop, adam = (table[arm].mean(axis=0) for arm in PAPER)
    apart = dict(zip(sorted(set(results.runs.game)), laprop - adam, strict=True))
    text = ", ".join(f"{game.replace('_', ' ')} {gain:+.2f}" for game, gain in apart.items())
    larger = sum(gain > 0 for gain in apart.values())
    return f"LaProp's mean area is the larger one in {larger} of {len(apart)} games ({text})"


def rainbow_earlier(results: Results, epsilon: str) -> Measured:
    """Whether LaProp's normalised area is larger, at its ``own`` or at ``equal`` epsilons."""
    table = areas(results)
    own = epsilon == "own"
    pairs = [PAPER] if own else _equal(table)
    gaps = [gap(table, *pair) for pair in pairs]
    text = "; ".join(compared(table, *pair) for pair in pairs)
    if own:
        text += f"; {by_game(results, table)}"
    if own and _equal(table):
        text += f"; at equal epsilon, which is not part of the claim: {_at_equal(table)}"
    apart = ", ".join(f"{found.centre:+.3f}" for found in gaps)
    return Measured(f"normalised area, interquartile mean: {text}", every_above(gaps),
                    f"LaProp's area minus Adam's: {apart}; the claim needs more than 0",
                    [difference(found, "+.3f") for found in gaps])  # fmt: skip


# Discrepancies ------------------------------------------------------------------------------------


def rainbow_eps(results: Results) -> str:
    """Area under Rainbow's training curve for both optimizers, each at both epsilons."""
    table = areas(results)
    pairs = {
        "LaProp and Adam at the same epsilon": [
            (("laprop", e), ("adam", e)) for e in (SMALL, LARGE)
        ],
        "the two epsilons with the same optimizer": [
            ((o, SMALL), (o, LARGE)) for o in ("adam", "laprop")
        ],
        "as in the paper": [PAPER],
    }
    text = [
        f"{what}: {'; '.join(compared(table, a, b) for a, b in arms)}"
        for what, arms in pairs.items()
    ]
    return f"normalised area, {'; '.join(text)}"
