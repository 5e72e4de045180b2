"""Theorem 1, section 4: regret on online convex problems against the bounds.

The theorem has a condition: root(n)/lr never falls in any coordinate. A run that breaks it does not
refute the theorem; AmsProp, with the largest second moment so far, fulfils it on every problem.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.core.groupby import SeriesGroupBy

from experiments.common.records import Results
from laprop import bounds
from scripts import words
from scripts.figures import style
from scripts.paper import NAMES, Measured

PROBLEMS = (  # name, lr, title
    ("growing", 1.0, "growing gradients"),
    ("median", 1.0, "median"),
    ("rare", 1.0, "rare large gradients"),
    ("mnist", 0.1, "logistic regression, MNIST"),
)
NU = 0.9  # of the curves: the smallest one of the grid at which AMSGrad's bound is finite
ADVISED = (0.95, 0.98, 0.99, 0.995, 0.999)  # P 3.2
BOUNDS = (
    ("laprop", "bound_run", (0, (4, 2)), "Theorem 1 along LaProp's run"),
    ("laprop", "bound_uniform", (0, (1, 1.5)), "Theorem 1 beforehand"),
    ("amsgrad", "bound_uniform", (0, (1, 1.5)), "AMSGrad's bound beforehand"),
)


def finding(results: Results) -> str:
    """The title."""
    runs = results.runs[results.runs.optimizer == "laprop"]
    kept = runs.condition_broken == 0
    before, along = (runs.regret / runs[bound] for bound in ("bound_uniform", "bound_run"))
    within = max(before[kept].max(), along[kept].max())
    return (
        f"LaProp's regret is at most {within:.2g} of Theorem 1's bounds where its condition holds; "
        f"elsewhere up to {before[~kept].max():.0f} times the bound from the largest "
        f"possible gradient, {along[~kept].max():.0f} times that from the run's own gradients"
    )


def draw(results: Results) -> Figure:
    """A column per problem: regret against T, and below it the final regret over the bounds."""
    curves, runs = results.curves, results.runs
    shown = [row for row in PROBLEMS if row[0] in set(runs.problem)]
    size = (1 + 2.6 * len(shown), 5.6)
    figure, axes = plt.subplots(2, len(shown), figsize=size, sharey="row", squeeze=False)
    for (above, below), (problem, lr, title) in zip(axes.T, shown, strict=True):
        chosen = curves[(curves.problem == problem) & np.isclose(curves.lr, lr)]
        _regret(above, chosen[np.isclose(chosen.nu, NU)])
        ends = runs[(runs.problem == problem) & np.isclose(runs.lr, lr)]
        above.set(title=f"{title}, lr {lr:g}\n{_condition(ends)}", xlabel="rounds T")
        _ratios(below, ends)
        below.set_xlabel("ν")
    axes[0, 0].set_ylabel(f"regret R(T), ν {NU:g}")
    axes[0, 0].set_ylim(0.5, None)
    axes[1, 0].set_ylabel("final R(T) over Theorem 1's bound")
    style.legend(figure, axes[0, 0], 4)
    axes[1, 0].legend(fontsize=7)
    style.provenance(
        figure,
        results,
        "learning rate lr/√t, µ 0.9·0.9^(t−1), box of side 2; median, bands: range of the seeds; "
        "widest line: LaProp, then AmsProp, AMSGrad, Adam, since some coincide; "
        "beforehand: the bound from the largest possible gradient alone; along: the bound from the "
        "gradients of the run",
    )
    return figure


def _condition(runs: pd.DataFrame) -> str:
    """Whether LaProp's runs fulfil the condition of the theorem, in words."""
    broken = runs[runs.optimizer == "laprop"].condition_broken > 0
    if not broken.any():
        return "condition holds"
    return "condition broken" + (
        "" if broken.all() else f" in {100 * broken.mean():.0f} % of the runs"
    )


def _regret(axis: Axes, curves: pd.DataFrame) -> None:
    # Where regrets coincide, a narrower line lies on a wider one.
    for optimizer, width in (("laprop", 5), ("amsprop", 3.2), ("amsgrad", 1.8), ("adam", 0.9)):
        seeds = curves[curves.optimizer == optimizer].groupby("step").regret
        middle = seeds.median()
        axis.plot(middle.index, middle.where(middle > 0), linewidth=width, **style.line(optimizer))
        _range(axis, seeds, optimizer)
    for optimizer, bound, dash, label in BOUNDS:
        middle = curves[curves.optimizer == optimizer].groupby("step")[bound].median()
        axis.plot(
            middle.index,
            middle,
            color=style.COLOUR[optimizer],
            linestyle=dash,
            linewidth=1.1,
            label=label,
        )
    axis.set(xscale="log", yscale="log")


def _range(axis: Axes, seeds: SeriesGroupBy, optimizer: str) -> None:
    low, high = seeds.min(), seeds.max()
    shown = low > 0  # the axis is logarithmic
    colour = style.COLOUR[optimizer]
    axis.fill_between(low.index, low, high, where=shown, color=colour, alpha=0.2, linewidth=0)


def _ratios(axis: Axes, runs: pd.DataFrame) -> None:
    kinds = (
        ("laprop", "bound_run", (0, (4, 2))),
        ("laprop", "bound_uniform", (0, (1, 1.5))),
        ("amsprop", "bound_run", (0, (4, 2))),
        ("amsprop", "bound_uniform", (0, (1, 1.5))),
    )
    for optimizer, bound, dash in kinds:
        cell = runs[runs.optimizer == optimizer]
        seeds = (cell.regret / cell[bound]).groupby(cell.nu)
        _range(axis, seeds, optimizer)
        ratio = seeds.median()
        axis.plot(
            ratio.index,
            ratio,
            color=style.COLOUR[optimizer],
            linestyle=dash,
            marker=".",
            label=f"{NAMES[optimizer]}, {'along' if bound == 'bound_run' else 'beforehand'}",
        )
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(yscale="log")


# Claims -------------------------------------------------------------------------------------------


def _largest(runs: pd.DataFrame, column: str) -> pd.Series:
    """Largest final regret over a bound among seeds, by problem, lr and nu."""
    return (runs.regret / runs[column]).groupby([runs.problem, runs.lr, runs.nu]).max()


def laprop_regret_bounded(
    results: Results, optimizer: str, no_gamma: bool = False
) -> Measured | None:
    """Of the runs that fulfil the condition, as recorded, none passes either form of the bound.

    With ``no_gamma`` only those count in which mu is above sqrt(nu), where AMSGrad's bound is
    infinite.
    """
    runs = results.runs[results.runs.optimizer == optimizer]
    if no_gamma:
        runs = runs[runs.nu < float(results.manifest["settings"]["optimizer.mu"]) ** 2]
    if optimizer == "laprop":
        if "condition_broken" not in runs:
            return None  # no run recorded whether it fulfils the condition
        runs = runs[runs.condition_broken == 0]
    ratio = {c: _largest(runs, c).max() for c in ("bound_run", "bound_uniform")}
    passed = (runs.bound_run_passed_at.notna() | runs.bound_uniform_passed_at.notna()).sum()
    problems = ", ".join(sorted(set(runs.problem)))
    return Measured(
        f"{len(runs)} runs of {NAMES[optimizer]} ({problems}; ν {runs.nu.min():g} to "
        f"{runs.nu.max():g}): final regret at most {ratio['bound_run']:.2g} of Theorem 1's "
        f"bound along the run, {ratio['bound_uniform']:.2g} of the one beforehand; {passed} runs "
        "pass either of them at any round",
        bool(passed == 0) if len(runs) else None,
        f"the regret is at most {max(ratio.values()):.2g} of the bound",
    )


def laprop_without_condition(results: Results) -> Measured:
    """Whether any run of LaProp, of those that break the condition too, passes the bound."""
    runs = results.runs[results.runs.optimizer == "laprop"]
    before, along = (_largest(runs, bound) for bound in ("bound_uniform", "bound_run"))
    passed = sorted(set(before[before > 1].index.get_level_values("nu")))
    rare, text = runs[runs.problem == "rare"], ""
    if passed:
        text = (
            "rare large gradients: the bound beforehand is passed at ν "
            f"{', '.join(f'{nu:g}' for nu in passed)}, with up to {before.max():.3g} times the "
            f"bound and a regret that grows as T^{rare.growth_exponent.median():.2f} (median over "
            f"ν and seeds); the final regret is up to {along['rare'].max():.3g} times the bound "
            "along the run; "
        )
    text += (
        f"on MNIST the final regret is at most {before['mnist'].max():.2g} of the bound beforehand "
        f"and up to {along['mnist'].max():.2g} times the bound along the run"
    )
    return Measured(text, not passed,
                    f"the regret is up to {before.max():.3g} times the bound "
                    "beforehand")  # fmt: skip


def bound_smaller(results: Results) -> Measured:
    """Equation 9's own factors, Theorem 1's and AMSGrad's, over the recommended nu.

    The whole bounds, which decide nothing here, are reported beside them.
    """
    mu = float(results.manifest["settings"]["optimizer.mu"])
    factors = {nu: (bounds.theorem1_factor(nu), bounds.amsgrad_factor(mu, nu)) for nu in ADVISED}
    text = "; ".join(
        f"ν {nu:g}: Theorem 1 {a:,.0f}, AMSGrad {b:,.0f}" for nu, (a, b) in factors.items()
    )
    times = {nu: ours / theirs for nu, (ours, theirs) in factors.items()}
    most = max(times, key=lambda nu: times[nu])
    larger = [nu for nu, ratio in times.items() if ratio >= 1]
    apart = f"the factor is at most {times[most]:.3g} times AMSGrad's"
    if larger:
        apart = (
            f"the factor is larger from ν {min(larger):g} on, {times[most]:.3g} times AMSGrad's at "
            f"{most:g}"
        )
    low, high, values = _whole_bounds(results)
    rounds = results.manifest["settings"]["task.rounds"]
    where = f"lr {words.listed(results.runs.lr)}, {rounds:,} rounds"
    return Measured(
        f"factors in equation 9 at µ {mu:g}: {text}; the whole bound beforehand, as we derive it "
        f"from Theorem 1, is {low:.2g} to {high:.2g} of AMSGrad's at ν {values}",
        not larger,
        f"{apart}; the whole bound, as we derive it, is at most {high:.2g} of AMSGrad's in our "
        f"runs ({where})",
    )


def _whole_bounds(results: Results) -> tuple[float, float, str]:
    """Theorem 1's bound beforehand over AMSGrad's: smallest, largest, and the recommended nu."""
    runs = results.runs[results.runs.nu.isin(ADVISED)]
    bound = runs.pivot(
        index=["problem", "lr", "nu", "seed"], columns="optimizer", values="bound_uniform"
    )
    over = bound.laprop / bound.amsgrad
    values = words.listed(runs.nu)
    return over.min(), over.max(), values


# Discrepancies ------------------------------------------------------------------------------------


def theorem_1(results: Results) -> str:
    """Growth of the regret on rare gradients, and whether the regret exceeds the bound."""
    runs = results.runs[results.runs.problem == "rare"]
    text = []
    for optimizer in ("laprop", "amsprop"):
        cell = runs[runs.optimizer == optimizer]
        linear = cell[cell.growth_exponent > 0.9]
        passed = cell.bound_uniform_passed_at.notna()
        text.append(
            f"{NAMES[optimizer]}'s regret is linear in T (log2 R(T)/R(T/2) above 0.9) in "
            f"{len(linear)} of {len(cell)} runs, and passes Theorem 1's bound beforehand in "
            f"{passed.sum()}"
        )
    return "rare gradients, which break the condition: " + "; ".join(text)
