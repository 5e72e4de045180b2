"""B.4 and B.5: AmsProp, centered LaProp and AMSGrad on the noisy Rosenbrock function.

Where each optimizer has its best lr and nu, they are chosen on one half of the seeds and judged on
the other.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import fisher_exact

from experiments.common.records import Results
from experiments.common.stats import decide, holm, log_ratio, median, share_difference
from scripts.effects import Effect, ratio
from scripts.figures import style
from scripts.figures.fig02 import UPDATES, curve, longest
from scripts.figures.variants import halves, told
from scripts.paper import NAMES, Measured

OPTIMIZERS = ("laprop", "amsprop", "centered", "adam", "amsgrad")  # dashes above what they may hide
ADVANTAGE = 0.95  # of the updates
LR = 0.01  # of the paper (C.2)


def finding(results: Results) -> str:
    """The title: where the variants are ahead of LaProp and, of AmsProp, where it is behind."""
    centered, amsprop = (against(results, v, "laprop") for v in ("centered", "amsprop"))
    less = [sigma for sigma, (_, effect, _) in amsprop.items() if effect.kind == "difference"
            and effect.high < 0]  # fmt: skip
    rest = f" (less often {_at(less)})" if less else ""
    adam = _ahead(against(results, "laprop", "adam"))
    return (
        "Noisy Rosenbrock, best lr and ν: centered LaProp is faster than LaProp, or converges more "
        f"often, {_at(_ahead(centered))}, AmsProp {_at(_ahead(amsprop))}{rest}; LaProp "
        f"than Adam {_at(adam)}"
    )


def draw(results: Results) -> Figure:
    """Updates until convergence: against nu at the paper's lr, and at the best nu of each lr."""
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
        style.plain(lower.xaxis, (1,))
    for axis in axes[:, 0]:
        axis.set_ylabel(f"{UPDATES}, median")
    style.legend(figure, axes[0, 0], 5)
    style.provenance(
        figure,
        results,
        "noise in (−σ/2, σ/2); AmsProp: LaProp with AMSGrad's maximum; centered: with the variance "
        "in place of the second moment; 95 % intervals; a path converges when it first comes "
        "near the "
        "minimum, if more than half of its last 2,000 positions are near it too; no mark: most "
        "seeds do not converge; below: ν chosen on one half of the seeds, shown for the other",
    )
    return figure


def by_rate(axis: Axes, chosen: pd.DataFrame, optimizer: str) -> None:
    """Median updates at the best nu of each learning rate, with their intervals."""
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
    """All runs; those whose path does not stay near the minimum do not converge."""
    runs = results.runs
    return runs.assign(steps_to_converge=runs.steps_to_converge.where(runs.near_share > 0.5))


def best(cell: pd.DataFrame) -> tuple[tuple[float, float], pd.Series]:
    """The lr and nu at which most seeds converge, in the fewest updates; updates by seed.

    The first half of the seeds chooses; the updates are those of the other half.
    """
    first, other = halves(cell)
    steps = cell.pivot(index="seed", columns=["lr", "nu"], values="steps_to_converge")
    order = pd.DataFrame(
        {"share": -steps.loc[first].count(), "steps": steps.loc[first].mean()}
    ).sort_values(["share", "steps"])
    return order.index[0], steps.loc[other, order.index[0]]


def against(
    results: Results, optimizer: str, base: str
) -> dict[float, tuple[bool | None, Effect, str]]:
    """At each sigma, each at its best lr and nu: whether one is ahead of the base, by how much.

    It is ahead where more of its seeds converge (Fisher's exact test) or, where all of both do, by
    ADVANTAGE in updates, after Holm's correction for the number of sigmas. The last entry is a
    line of text.
    """
    found: dict[float, tuple[float, float, Effect, str]] = {}
    for sigma, cell in kept(results).groupby("sigma"):
        by = {o: best(cell[cell.optimizer == o]) for o in (optimizer, base)}
        steps, others = (seeds for _, seeds in by.values())
        at = "; ".join(
            told(cell, *setting) if seeds.count() else "none of these seeds converges"
            for setting, seeds in by.values()
        )
        k, n, other_k, other_n = (steps.count(), len(steps), others.count(), len(others))
        if k == n and other_k == other_n:
            log, limit = log_ratio(steps, others), math.log(ADVANTAGE)
            p, behind = log.below(limit), log.above(limit)
            effect, text = ratio(log), f"updates {ratio(log)} of {NAMES[base]}'s"
        else:
            gap, low, high = share_difference(k, n, other_k, other_n)
            table = [[k, n - k], [other_k, other_n - other_k]]
            p, behind = fisher_exact(table, alternative="greater").pvalue, float(gap > 0)
            more = f"{gap:+.0%} [{low:+.0%}, {high:+.0%}]"
            effect = Effect(more, "difference", gap, low, high)
            text = (
                f"{k} of {n} seeds converge, of {NAMES[base]}'s {other_k} of {other_n}, "
                f"difference {more}"
            )
        found[sigma] = p, behind, effect, f"σ {sigma:g} ({at}): {text}"
    adjusted = holm([p for p, *_ in found.values()])
    return {
        sigma: (decide(p, behind), effect, text)
        for p, (sigma, (_, behind, effect, text)) in zip(adjusted, found.items(), strict=True)
    }


def _ahead(found: dict[float, tuple[bool | None, Effect, str]]) -> list[float]:
    """The sigmas at which a variant is ahead."""
    return [sigma for sigma, (ahead, _, _) in found.items() if ahead]


def _at(sigmas: list[float]) -> str:
    """``at σ 0.04 and 0.12``, or ``at no σ``."""
    return f"at σ {' and '.join(f'{sigma:g}' for sigma in sigmas)}" if sigmas else "at no σ"


def rosenbrock_no_advantage(results: Results, variant: str) -> Measured:
    """At no sigma does the variant converge more often than LaProp or, where both do, sooner."""
    found = against(results, variant, "laprop")
    verdicts = [ahead for ahead, _, _ in found.values()]
    return Measured(
        f"{NAMES[variant]} against LaProp, each at its best lr and ν, "
        f"{'; '.join(text for _, _, text in found.values())}",
        False if True in verdicts else None if None in verdicts else True,
        f"by its test {NAMES[variant]} is more than {100 * (1 - ADVANTAGE):.0f} % faster, or "
        f"converges more often, at {len(_ahead(found))} of {len(found)} σ; the claim allows none",
        [effect for _, effect, _ in found.values()],
    )


def rosenbrock_tuned_adam(results: Results) -> Measured:
    """At some sigma LaProp converges more often than Adam or, where both do, sooner."""
    found = against(results, "laprop", "adam")
    verdicts = [ahead for ahead, _, _ in found.values()]
    return Measured(
        "LaProp against Adam, each at its best lr and ν, "
        f"{'; '.join(text for _, _, text in found.values())}",
        True if True in verdicts else None if None in verdicts else False,
        f"by its test LaProp is more than {100 * (1 - ADVANTAGE):.0f} % faster, or converges more "
        f"often, at {len(_ahead(found))} of {len(found)} σ; the claim needs one",
        [effect for _, effect, _ in found.values()],
    )


def rosenbrock_repair_harms(results: Results, repaired: str, plain: str) -> Measured:
    """Over all nu above 0 the repaired one converges less often, or as often in more updates."""
    text, worse = [], []
    runs = results.runs
    for sigma, cell in runs[(runs.nu > 0) & (runs.lr == LR)].groupby("sigma"):
        by = cell.groupby("optimizer").steps_to_converge
        count, steps, size = by.count(), by.mean(), by.size()
        seldom, equal = count[repaired] < count[plain], count[repaired] == count[plain]
        worse.append(bool(seldom or (equal and steps[repaired] > steps[plain])))
        text.append(
            f"σ {sigma:g}: "
            + ", ".join(
                f"{NAMES[o]} {count[o] / size[o]:.0%}"
                + (f" in {steps[o]:,.0f} updates" if count[o] else "")
                for o in (repaired, plain)
            )
        )
    return Measured(
        f"share of ν above 0 and seeds that converge, {'; '.join(text)}",
        all(worse),
        f"{NAMES[repaired]} is worse than {NAMES[plain]} at {sum(worse)} of {len(worse)} σ; the "
        "claim "
        "needs all",
    )
