"""Claims about Rainbow on Breakout: the best score."""

from experiments.common.records import Results
from experiments.common.stats import maxima_by_chance, paired_difference
from scripts import make_authors
from scripts.claims.fig07 import best_by_the_others
from scripts.claims.fig11 import ARM, LARGE, PAPER, SMALL, Arm, name
from scripts.claims.measured import Measured, decided


def best(results: Results, a: Arm, b: Arm) -> tuple[str, bool | None]:
    """Difference of the best evaluations of two arms, and whether a's is the higher.

    A run's is the one at the step at which the other seeds' mean is highest: the largest of many
    is large by luck too.
    """
    points = results.curves.dropna(subset="evaluation")
    scores = points.pivot(index="seed", columns=[*ARM, "step"], values="evaluation")
    scores = scores.sort_index(axis=1)
    chosen = {arm: best_by_the_others(-scores[arm], scores[arm]) for arm in (a, b)}
    gap, low, high = paired_difference(chosen[a], chosen[b])
    return (
        f"{chosen[a].mean():.1f} ({name(a)}; mean of the maxima {scores[a].max(axis=1).mean():.1f})"
        f" against {chosen[b].mean():.1f} ({name(b)}; {scores[b].max(axis=1).mean():.1f}), "
        f"difference {gap:+.1f} [{low:+.1f}, {high:+.1f}]",
        decided(low, high),
    )


def rainbow_breakout(results: Results) -> Measured:
    """Held where LaProp's best evaluation is higher than Adam's, each with its own epsilon."""
    text, held = best(results, *PAPER)
    beside = "; ".join(best(results, ("laprop", e), ("adam", e))[0] for e in (SMALL, LARGE))
    return Measured(f"best evaluation: {text}; not part of the claim: {beside}", held)


def rainbow_breakout_logs() -> Measured:
    """Held where chance alone seldom (p < 0.05) puts the maxima of the authors' logs so far apart.

    Of the steps that both logs hold, in bins of two evaluations of 20 games. They are one run
    each: what another seed would do, they cannot say.
    """
    table = make_authors.load("rainbow_best").set_index(["optimizer", "within"])
    bins = make_authors.load("rainbow")
    both = bins[bins.agent_steps <= make_authors.WITHIN].pivot(
        index="agent_steps", columns="optimizer", values="mean"
    )
    p = maxima_by_chance(both.laprop, both.adam)
    text = []
    for within in ("both logs", "whole log"):
        ours, theirs = table.loc[("laprop", within)], table.loc[("adam", within)]
        error = (ours.standard_error**2 + theirs.standard_error**2) ** 0.5
        gap = ours["mean"] - theirs["mean"]
        text.append(
            f"{within}: LaProp {ours['mean']:.1f} ± {ours.standard_error:.1f}, Adam "
            f"{theirs['mean']:.1f} ± {theirs.standard_error:.1f} at {theirs.agent_steps / 1e6:g} M "
            f"steps, z = {gap / error:.2f}"
        )
    ahead = bool(both.laprop.max() > both.adam.max())
    return Measured(
        f"best of all evaluations, {'; '.join(text)}; best bins of two {both.laprop.max():.0f} and "
        f"{both.adam.max():.0f}: as far apart by chance p = {p:.2f}",
        ahead if p < 0.05 else None,
    )
