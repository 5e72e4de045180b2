"""B.4 and B.5: AmsProp, centered LaProp and AMSGrad on the noisy Rosenbrock function."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import log_ratio, share_difference
from scripts.effects import Effect, ratio
from scripts.figures import style
from scripts.figures.fig02 import HOLLOW, curve, longest
from scripts.paper import NAMES, Measured

OPTIMIZERS = ("laprop", "amsprop", "centered", "adam", "amsgrad")  # dashes above what they may hide
ADVANTAGE = 0.95  # of the steps


def finding(results: Results) -> str:
    """The title."""
    ams, centered = (rosenbrock_no_advantage(results, o).held for o in ("amsprop", "centered"))
    return (
        f"Each at its best ν, AmsProp {'does not reach' if ams else 'reaches'} Rosenbrock's "
        f"minimum sooner than LaProp; centered LaProp {'does not' if centered else 'does'}"
    )


def draw(results: Results) -> Figure:
    """Median steps to converge against nu, a panel per sigma."""
    runs = results.runs
    sigmas = sorted(runs.sigma.unique())
    figure, axes = plt.subplots(
        1, len(sigmas), figsize=(3.3 * len(sigmas), 4), sharex=True, sharey=True, squeeze=False
    )
    for axis, sigma in zip(axes[0], sigmas, strict=True):
        for optimizer in OPTIMIZERS:
            curve(axis, runs[(runs.optimizer == optimizer) & (runs.sigma == sigma)], optimizer)
        top = 1.3 * longest(results, runs)
        axis.set(yscale="log", ylim=(50, top), xlabel="ν", title=f"σ = {sigma:g}")
    axes[0, 0].set_ylabel("steps to converge, median of all seeds")
    style.legend(figure, axes[0, 0], 5)
    style.provenance(
        figure,
        results,
        "noise in (−σ/2, σ/2); 95 % intervals; a first hit counts, the path may leave again; no "
        f"mark: most seeds never converge; {HOLLOW}",
    )
    return figure


# Claims -------------------------------------------------------------------------------------------


def best(results: Results, optimizer: str, sigma: float) -> tuple[float, pd.Series]:
    """The nu at which most seeds converge, in the fewest steps of these, and its steps by seed."""
    runs = results.runs
    cell = runs[(runs.optimizer == optimizer) & (runs.sigma == sigma)]
    steps = cell.pivot(index="seed", columns="nu", values="steps_to_converge")
    order = pd.DataFrame({"share": -steps.count(), "steps": steps.mean()}).sort_values(
        ["share", "steps"]
    )
    nu = order.index[0]
    return float(nu), steps[nu]


def rosenbrock_no_advantage(results: Results, variant: str) -> Measured:
    """At no sigma does the variant converge more often than LaProp or, where both do, sooner."""
    text, ahead, found, sigmas = [], [], [], sorted(results.runs.sigma.unique())
    for sigma in sigmas:
        nu, steps = best(results, variant, sigma)
        laprop_nu, laprop = best(results, "laprop", sigma)
        counts = (steps.count(), len(steps), laprop.count(), len(laprop))
        line = f"sigma {sigma:g} (nu {nu:g} and {laprop_nu:g}): "
        if counts[0] == counts[1] and counts[2] == counts[3]:
            log = log_ratio(steps, laprop)
            ahead.append(log.high < math.log(ADVANTAGE))
            found.append(ratio(log))
            text.append(f"{line}steps {found[-1]} of LaProp's")
        else:
            gap, low, high = share_difference(*counts)
            ahead.append(low > 0)
            more = f"{gap:+.0%} [{low:+.0%}, {high:+.0%}]"
            found.append(Effect(more, "difference", gap, low, high))
            text.append(f"{line}share of seeds that converge {more}")
    return Measured(
        f"{NAMES[variant]} against LaProp, each at its best nu, {'; '.join(text)}",
        not any(ahead),
        f"an advantage at {sum(ahead)} of {len(sigmas)} sigmas",
        found,
    )


def rosenbrock_repair_harms(results: Results, repaired: str, plain: str) -> Measured:
    """Over all nu above 0 the repaired one converges less often or, if as often, in more steps."""
    text, worse = [], []
    runs = results.runs
    for sigma, cell in runs[runs.nu > 0].groupby("sigma"):
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
