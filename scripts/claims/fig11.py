"""Claims about Rainbow's training curves, game by game.

What is compared is fixed here, before the runs: the area under the training curve, that is the mean
over the whole run of the score of a life (a run's ``area``), on a scale on which 0 is the first
point of the game's curves, mean of all runs, and 1 the highest point of the mean curves of the
arms. Over games and seeds as Agarwal et al. (2021) have it: interquartile mean and probability of
improvement with the intervals of the stratified bootstrap.
"""

import numpy as np
import pandas as pd

from experiments.common.records import Results
from experiments.common.stats import interquartile_mean, probability_of_improvement, stratified
from scripts.claims.measured import NAMES, Measured, decided, every

SMALL, LARGE = 1e-15, 1.5e-4
ARM = ["optimizer", "epsilon"]
Arm = tuple[str, float]
PAPER: tuple[Arm, Arm] = ("laprop", SMALL), ("adam", LARGE)  # LaProp's and Adam's epsilon there


def name(arm: Arm) -> str:
    """``Adam, 1.5e-4``."""
    digits, power = f"{arm[1]:e}".split("e")
    return f"{NAMES[arm[0]]}, {float(digits):g}e{int(power)}"


def mean_curves(results: Results) -> pd.DataFrame:
    """Mean over seeds of the training score: index game and step, columns optimizer, epsilon.

    A point at which no life had ended has the score of the one before.
    """
    curves = results.curves.dropna(subset="lives")
    axes = [*ARM, "game", "seed"]
    filled = curves.assign(life_score=curves.groupby(axes).life_score.ffill())
    return filled.pivot_table("life_score", ["game", "step"], ARM)


def ends(results: Results) -> pd.DataFrame:
    """Per game (index) what counts as 0 and as 1: columns ``zero`` and ``one``."""
    curves = mean_curves(results)
    zero = curves.groupby("game").first().mean(axis=1)
    return pd.DataFrame({"zero": zero, "one": curves.groupby("game").max().max(axis=1)})


def areas(results: Results) -> dict[Arm, np.ndarray]:
    """Per optimizer and epsilon the areas on that scale, (seeds, games), games by name."""
    scale = ends(results)
    table = results.runs.pivot(index="seed", columns=[*ARM, "game"], values="area")
    table = table.sort_index(axis=1)
    arms = dict.fromkeys((o, e) for o, e, _ in table.columns)
    span = (scale.one - scale.zero).replace(0, np.inf)  # nobody learns the game: all are at 0
    return {arm: ((table[arm] - scale.zero) / span).to_numpy() for arm in arms}


def compared(table: dict[Arm, np.ndarray], a: Arm, b: Arm) -> tuple[str, bool | None]:
    """Difference of the interquartile means of two arms, P(a beats b), and whether a is ahead."""

    def difference(x: np.ndarray, y: np.ndarray) -> float:
        return interquartile_mean(x) - interquartile_mean(y)

    gap, low, high = stratified(difference, table[a], table[b])
    chance, least, most = stratified(probability_of_improvement, table[a], table[b])
    return (
        f"{interquartile_mean(table[a]):.2f} ({name(a)}) against "
        f"{interquartile_mean(table[b]):.2f} ({name(b)}), difference {gap:+.3f} "
        f"[{low:+.3f}, {high:+.3f}], P(better) {chance:.2f} [{least:.2f}, {most:.2f}]",
        decided(low, high),
    )


def rainbow_earlier(results: Results) -> Measured:
    """Held where LaProp's normalised area is the larger one, each with its own epsilon."""
    text, held = compared(areas(results), *PAPER)
    return Measured(f"normalised area, interquartile mean: {text}", held)


def rainbow_earlier_equal(results: Results) -> Measured:
    """Held where LaProp's normalised area is the larger one at either epsilon."""
    table = areas(results)
    found = [compared(table, ("laprop", e), ("adam", e)) for e in (SMALL, LARGE)]
    text = "; ".join(text for text, _ in found)
    return Measured(f"normalised area: {text}", every([held for _, held in found]))
