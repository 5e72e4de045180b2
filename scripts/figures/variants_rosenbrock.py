"""B.4 and B.5: AmsProp, centered LaProp and AMSGrad on the noisy Rosenbrock function."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import log_ratio, median, share_difference
from scripts.effects import Effect, ratio
from scripts.figures import style
from scripts.figures.fig02 import curve, longest
from scripts.paper import NAMES, Measured

OPTIMIZERS = ("laprop", "amsprop", "centered", "adam", "amsgrad")  # dashes above what they may hide
ADVANTAGE = 0.95  # of the steps
LR = 0.01  # of the paper (C.2)


def finding(results: Results) -> str:
    """The title."""
    where = {
        variant: rosenbrock_no_advantage(results, variant).apart.removeprefix("an advantage ")
        for variant in ("amsprop", "centered")
    }
    return (
        f"Each at its best lr and ν, {NAMES['amsprop']} reaches Rosenbrock's minimum sooner than "
        f"LaProp {where['amsprop']}, {NAMES['centered']} {where['centered']}"
    )


def draw(results: Results) -> Figure:
    """Steps to converge: against nu at the paper's learning rate, and at each rate's best nu."""
    runs = kept(results)
    sigmas = sorted(runs.sigma.unique())
    figure, axes = plt.subplots(
        2, len(sigmas), figsize=(3.3 * len(sigmas), 6), sharex="row", sharey=True, squeeze=False
    )
    for (upper, lower), sigma in zip(axes.T, sigmas, strict=True):
        for optimizer in OPTIMIZERS:
            chosen = runs[(runs.optimizer == optimizer) & (runs.sigma == sigma)]
            curve(upper, chosen[chosen.lr == LR], optimizer)
            by_rate(lower, chosen, optimizer)
        top = 1.3 * longest(results, runs)
        upper.set(yscale="log", ylim=(50, top), xlabel="ν", title=f"σ {sigma:g}, lr {LR:g}")
        lower.set(xscale="log", xlabel="learning rate", title=f"σ {sigma:g}, best ν at each lr")
        rates = sorted(runs.lr.unique())
        lower.set_xticks(rates, [f"{rate:g}" for rate in rates])
        lower.minorticks_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("steps to converge, median")
    style.legend(figure, axes[0, 0], 5)
    style.provenance(
        figure,
        results,
        "noise in (−σ/2, σ/2); 95 % intervals; a path converges when it first comes near the "
        "minimum, if more than half of its last 2,000 positions are near it too; no mark: most "
        "seeds do not converge",
    )
    return figure


def by_rate(axis: Axes, chosen: pd.DataFrame, optimizer: str) -> None:
    """Median steps at the best nu of each learning rate, with their intervals."""
    best_nu = [best(cell)[1] for _, cell in chosen.groupby("lr")]
    middle, low, high = np.array([median(steps) for steps in best_nu]).T
    shown = np.where(np.isfinite(middle), middle, np.nan)
    rates = sorted(chosen.lr.unique())
    axis.plot(rates, shown, marker=".", markersize=4, **style.line(optimizer))
    color = style.COLOUR[optimizer]
    top = np.minimum(high, 1e6)  # an infinite end of an interval is beyond the picture
    axis.vlines(rates, np.where(np.isfinite(middle), low, np.nan), top, color=color, alpha=0.4)


# Claims -------------------------------------------------------------------------------------------


def kept(results: Results) -> pd.DataFrame:
    """All runs; those whose path does not stay near the minimum have no steps to converge."""
    runs = results.runs
    return runs.assign(steps_to_converge=runs.steps_to_converge.where(runs.near_share > 0.5))


def best(cell: pd.DataFrame) -> tuple[tuple[float, float], pd.Series]:
    """The lr and nu at which most seeds converge, in the fewest steps of these; steps by seed."""
    steps = cell.pivot(index="seed", columns=["lr", "nu"], values="steps_to_converge")
    order = pd.DataFrame({"share": -steps.count(), "steps": steps.mean()}).sort_values(
        ["share", "steps"]
    )
    return order.index[0], steps[order.index[0]]


def rosenbrock_no_advantage(results: Results, variant: str) -> Measured:
    """At no sigma does the variant converge more often than LaProp or, where both do, sooner."""
    text, ahead, found = [], [], []
    for sigma, cell in kept(results).groupby("sigma"):
        by = {o: best(cell[cell.optimizer == o]) for o in (variant, "laprop")}
        steps, laprop = (seeds for _, seeds in by.values())
        at = " and ".join(f"lr {lr:g}, nu {nu:g}" for (lr, nu), _ in by.values())
        counts = (steps.count(), len(steps), laprop.count(), len(laprop))
        if counts[0] == counts[1] and counts[2] == counts[3]:
            log = log_ratio(steps, laprop)
            limit = math.log(ADVANTAGE)
            ahead.append(True if log.high < limit else False if log.low >= limit else None)
            found.append(ratio(log))
            text.append(f"sigma {sigma:g} ({at}): steps {found[-1]} of LaProp's")
        else:
            gap, low, high = share_difference(*counts)
            ahead.append(True if low > 0 else False if gap <= 0 else None)
            more = f"{gap:+.0%} [{low:+.0%}, {high:+.0%}]"
            found.append(Effect(more, "difference", gap, low, high))
            text.append(
                f"sigma {sigma:g} ({at}): {steps.count()} of {len(steps)} seeds converge, of "
                f"LaProp's {laprop.count()} of {len(laprop)}, difference {more}"
            )
    return Measured(
        f"{NAMES[variant]} against LaProp, each at its best lr and nu, {'; '.join(text)}",
        False if True in ahead else None if None in ahead else True,
        f"an advantage at {ahead.count(True)} of {len(ahead)} sigmas",
        found,
    )


def rosenbrock_repair_harms(results: Results, repaired: str, plain: str) -> Measured:
    """Over all nu above 0 the repaired one converges less often or, if as often, in more steps."""
    text, worse = [], []
    runs = results.runs
    for sigma, cell in runs[(runs.nu > 0) & (runs.lr == LR)].groupby("sigma"):
        by = cell.groupby("optimizer").steps_to_converge
        count, steps = by.count(), by.mean()
        seldom, equal = count[repaired] < count[plain], count[repaired] == count[plain]
        worse.append(bool(seldom or (equal and steps[repaired] > steps[plain])))
        text.append(
            f"sigma {sigma:g}: "
            + ", ".join(
                f"{NAMES[o]} {count[o] / by.size()[o]:.0%}"
                + (f" in {steps[o]:,.0f} steps" if count[o] else "")
                for o in (repaired, plain)
            )
        )
    return Measured(
        f"share of nu above 0 and seeds that converge, {'; '.join(text)}",
        all(worse),
        f"worse than {NAMES[plain]} at {sum(worse)} of {len(worse)} sigmas",
    )
