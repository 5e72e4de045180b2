"""B.4 and B.5: AmsProp, centered LaProp and AMSGrad on the noisy Rosenbrock function.

Where each optimizer has its best lr and nu, they are chosen on one half of the seeds and judged on
the other.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import (
    Estimate,
    decide,
    everywhere,
    holm,
    log_ratio,
    mean,
    median,
    share_above,
    somewhere,
)
from experiments.rosenbrock import expected_loss, fixed_points
from scripts.effects import Effect, ratio
from scripts.figures import style
from scripts.figures.fig02 import UPDATES, curve, longest
from scripts.figures.variants import halves, told
from scripts.paper import NAMES, Measured

OPTIMIZERS = ("laprop", "amsprop", "centered", "adam", "amsgrad")  # dashes above what they may hide
ADVANTAGE = 0.95  # of the updates
LR = 0.01  # of the paper (C.2)


def finding(results: Results) -> str:
    """The title: where the variants are ahead of LaProp or behind it, and LaProp of Adam."""
    pairs = (("centered", "laprop"), ("amsprop", "laprop"), ("laprop", "adam"))
    parts = []
    for optimizer, base in pairs:
        found = against(results, optimizer, base)
        behind = [sigma for sigma, (_, effect, _) in found.items() if effect.low > 1]
        places = {"ahead of": _ahead(found), "behind": behind}
        told = [f"{how} {NAMES[base]} {_at(at)}" for how, at in places.items() if at]
        told = told or [f"neither ahead of nor behind {NAMES[base]}"]
        parts.append(f"{NAMES[optimizer]} is {' and '.join(told)}")
    return f"Noisy Rosenbrock, best lr and ν: {'; '.join(parts)}"


def draw(results: Results) -> Figure:
    """Updates until convergence at the paper's lr and at the best nu of each lr; expected loss."""
    runs = kept(results)
    sigmas = sorted(runs.sigma.unique())
    figure, axes = plt.subplots(
        3, len(sigmas), figsize=(3.3 * len(sigmas), 9), sharex="row", sharey="row", squeeze=False
    )
    for (upper, middle, lower), sigma in zip(axes.T, sigmas, strict=True):
        for optimizer in OPTIMIZERS:
            chosen = runs[(runs.optimizer == optimizer) & (runs.sigma == sigma)]
            curve(upper, chosen[chosen.lr == LR], optimizer)
            by_rate(middle, chosen, optimizer, longest(results, runs))
            expected_by_rate(lower, chosen, optimizer)
        top = 1.3 * longest(results, runs)
        upper.set(yscale="log", ylim=(50, top), xlabel="ν", title=f"σ {sigma:g}, lr {LR:g}")
        middle.set(yscale="log", ylim=(50, top))
        lower.set(yscale="log", ylim=(None, 3))
        lower.axhline(lowest(sigma), color="#999999", linewidth=0.8, linestyle=":")
        for axis in (middle, lower):
            axis.set(xscale="log", xlabel="learning rate", title=f"σ {sigma:g}, best ν at each lr")
            style.plain(axis.xaxis, (1,))
    for axis in axes[:2, 0]:
        axis.set_ylabel(f"{UPDATES}, median")
    axes[2, 0].set_ylabel("mean expected loss\nof the last 2,000 updates")
    style.legend(figure, axes[0, 0], 5)
    style.provenance(
        figure,
        results,
        "noise in (−σ/2, σ/2); AmsProp: LaProp with AMSGrad's maximum; centered: with the variance "
        "in place of the second moment; 95 % intervals; a path converges when it first comes near "
        "the minimum, if more than half of its last 2,000 positions are near it too; ahead: in 5 % "
        "fewer updates, where a path that does not converge counts with all updates; no mark: most "
        "do not; lower rows: ν chosen on half of the seeds, shown for the others; expected loss: "
        "the mean over the noise at a position; dotted: its minimum",
    )
    return figure


def by_rate(axis: Axes, chosen: pd.DataFrame, optimizer: str, last: int) -> None:
    """Median updates at the best nu of each learning rate, with their intervals."""
    best_nu = [best(cell, last)[1] for _, cell in chosen.groupby("lr")]
    middle, low, high = np.array([median(s.where(s < last)) for s in best_nu]).T
    shown = np.where(np.isfinite(middle), middle, np.nan)
    rates = sorted(chosen.lr.unique())
    axis.plot(rates, shown, marker=".", markersize=4, **style.line(optimizer))
    color = style.COLOUR[optimizer]
    top = np.minimum(high, 1e6)  # an infinite end of an interval is beyond the picture
    axis.vlines(rates, np.where(np.isfinite(middle), low, np.nan), top, color=color, alpha=0.4)


def expected_by_rate(axis: Axes, chosen: pd.DataFrame, optimizer: str) -> None:
    """Mean expected loss at the best nu of each learning rate, with its interval."""
    cells = [lowest_loss(cell)[1] for _, cell in chosen.groupby("lr")]
    found = style.intervals(mean(cell) for cell in cells)
    style.band(axis, sorted(chosen.lr.unique()), found, marker=".", markersize=4,
               **style.line(optimizer))  # fmt: skip


def lowest(sigma: float) -> float:
    """The minimum of the expected loss, which lies where the mean gradient is 0."""
    at = fixed_points([sigma], "width").set_index("point").loc["mean gradient", ["x", "y"]]
    return float(expected_loss(torch.tensor([at.tolist()]), torch.tensor([sigma / 2])))


# Claims -------------------------------------------------------------------------------------------


def kept(results: Results) -> pd.DataFrame:
    """All runs; those whose path does not stay near the minimum do not converge."""
    runs = results.runs
    return runs.assign(steps_to_converge=runs.steps_to_converge.where(runs.near_share > 0.5))


def best(cell: pd.DataFrame, last: int) -> tuple[tuple[float, float], pd.Series]:
    """The lr and nu with the fewest updates until convergence; these updates by seed.

    The first half of the seeds chooses, by the geometric mean; the updates are those of the other
    half. A seed that does not converge counts with ``last``, the number of updates of its run.
    """
    first, other = halves(cell)
    steps = cell.pivot(index="seed", columns=["lr", "nu"], values="steps_to_converge").fillna(last)
    at = np.log(steps.loc[first]).mean().idxmin()
    return at, steps.loc[other, at]


def lowest_loss(cell: pd.DataFrame) -> tuple[tuple[float, float], pd.Series]:
    """The lr and nu with the lowest mean expected loss; the losses by seed.

    The first half of the seeds chooses; the losses are those of the other half.
    """
    first, other = halves(cell)
    loss = cell.pivot(index="seed", columns=["lr", "nu"], values="expected_loss").fillna(np.inf)
    at = loss.loc[first].mean().idxmin()
    return at, loss.loc[other, at]


def against(
    results: Results, optimizer: str, base: str
) -> dict[float, tuple[bool | None, Effect, str]]:
    """At each sigma, each at its best lr and nu: whether one is ahead of the base, by how much.

    It is ahead where it takes less than ADVANTAGE times the updates, after Holm's correction for
    the number of sigmas. A seed that does not converge counts with the last update, which makes
    the difference smaller than it is. The last entry is a line of text.
    """
    last, limit = longest(results, results.runs), math.log(ADVANTAGE)
    found: dict[float, tuple[Estimate, str]] = {}
    for sigma, cell in kept(results).groupby("sigma"):
        by = {o: best(cell[cell.optimizer == o], last) for o in (optimizer, base)}
        places, counts = [], []
        for own, (setting, steps) in by.items():
            converged = steps < last
            places.append(
                told(cell, *setting) if converged.any() else "none of these seeds converges"
            )
            if not converged.all():
                counts.append(f"{NAMES[own]} converges in {converged.sum()} of {len(steps)} seeds")
        (_, steps), (_, others) = by.values()
        log = log_ratio(steps, others)
        medians = " and ".join(
            f"{'above ' * bool(seeds.median() >= last)}{seeds.median():,.0f}"
            for seeds in (steps, others)
        )
        text = f"updates {ratio(log)} of {NAMES[base]}'s, medians {medians}"
        text += f" ({', '.join(counts)})" if counts else ""
        found[sigma] = log, f"σ {sigma:g} ({'; '.join(places)}): {text}"
    adjusted = holm([log.below(limit) for log, _ in found.values()])
    return {
        sigma: (decide(p, log.above(limit)), ratio(log), text)
        for p, (sigma, (log, text)) in zip(adjusted, found.items(), strict=True)
    }


def _ahead(found: dict[float, tuple[bool | None, Effect, str]]) -> list[float]:
    """The sigmas at which a variant is ahead."""
    return [sigma for sigma, (ahead, _, _) in found.items() if ahead]


def _how(found: dict[float, tuple[bool | None, Effect, str]]) -> str:
    """Where an optimizer is ahead: ``needs 17% fewer updates at σ 0.04``."""
    parts = [f"{1 - found[sigma][1].centre:.0%} fewer at σ {sigma:g}" for sigma in _ahead(found)]
    told = " and ".join(parts).replace("fewer at", "fewer updates at", 1)
    return f"needs {told}" if parts else "is ahead at no σ"


def _at(sigmas: list[float]) -> str:
    """``at σ 0.04 and 0.12``, or ``at no σ``."""
    return f"at σ {' and '.join(f'{sigma:g}' for sigma in sigmas)}" if sigmas else "at no σ"


def rosenbrock_no_advantage(results: Results, variant: str) -> Measured:
    """At no sigma does the variant converge in fewer updates than LaProp."""
    found = against(results, variant, "laprop")
    verdicts = [ahead for ahead, _, _ in found.values()]
    return Measured(
        f"{NAMES[variant]} against LaProp, each at its best lr and ν, "
        f"{'; '.join(text for _, _, text in found.values())}",
        False if True in verdicts else None if None in verdicts else True,
        f"{NAMES[variant]} {_how(found)}; the claim allows no advantage",
        [effect for _, effect, _ in found.values()],
    )


def rosenbrock_tuned_adam(results: Results) -> Measured:
    """At some sigma LaProp converges in fewer updates than Adam."""
    found = against(results, "laprop", "adam")
    verdicts = [ahead for ahead, _, _ in found.values()]
    return Measured(
        "LaProp against Adam, each at its best lr and ν, "
        f"{'; '.join(text for _, _, text in found.values())}",
        True if True in verdicts else None if None in verdicts else False,
        f"LaProp {_how(found)}; the claim needs an advantage at one σ",
        [effect for _, effect, _ in found.values()],
    )


def rosenbrock_lower_expected_loss(results: Results) -> Measured:
    """At some sigma LaProp's lowest expected loss is below ADVANTAGE times Adam's."""
    logs, text, limit = [], [], math.log(ADVANTAGE)
    for sigma, cell in results.runs.groupby("sigma"):
        by = {o: lowest_loss(cell[cell.optimizer == o]) for o in ("laprop", "adam")}
        (at, losses), (other_at, others) = by["laprop"], by["adam"]
        logs.append(log_ratio(losses, others))
        text.append(
            f"σ {sigma:g} ({told(cell, *at)}; {told(cell, *other_at)}): {losses.mean():.3f}, "
            f"{ratio(logs[-1])} of Adam's, the minimum is {lowest(sigma):.3f}"
        )
    below = holm([log.below(limit) for log in logs])
    verdicts = [decide(p, log.above(limit)) for p, log in zip(below, logs, strict=True)]
    return Measured(
        "expected loss of LaProp and Adam, each at the lr and ν at which it is lowest, "
        f"{'; '.join(text)}",
        True if True in verdicts else None if None in verdicts else False,
        f"LaProp's is more than {100 * (1 - ADVANTAGE):.0f} % lower at {verdicts.count(True)} of "
        f"{len(verdicts)} σ; the claim needs one",
        [ratio(log) for log in logs],
    )


def rosenbrock_repair_harms(results: Results, repaired: str, plain: str) -> Measured:
    """At every sigma the repaired one is worse in more than half of the seeds.

    It is worse where it converges at fewer nu above 0, or at as many in more updates on average.
    """
    text, true, false, better = [], [], [], []
    runs = results.runs[(results.runs.nu > 0) & (results.runs.lr == LR)]
    for sigma, cell in runs.groupby("sigma"):
        by = cell.groupby(["optimizer", "seed"]).steps_to_converge
        count, steps = by.count(), by.mean()
        more, equal = count[repaired] - count[plain], count[repaired] == count[plain]
        slower = (steps[repaired] - steps[plain]).fillna(0)  # NaN: neither converges
        n, worse = len(more), int(((more < 0) | (equal & (slower > 0))).sum())
        ahead = int(((more > 0) | (equal & (slower < 0))).sum())
        true.append(float(share_above(worse, n)))
        false.append(float(share_above(ahead, n)))
        if ahead > worse:
            better.append(f"σ {sigma:g} in {ahead} of {n} seeds")
        shares = [
            f"{NAMES[o]} {count[o].sum() / (cell.optimizer == o).sum():.0%}"
            + (f" in {steps[o].mean():,.0f} updates" if count[o].sum() else "")
            for o in (repaired, plain)
        ]
        text.append(f"σ {sigma:g}: {', '.join(shares)}, {NAMES[repaired]} worse in {worse} of {n}")
    return Measured(
        f"share of ν above 0 and seeds that converge, and in how many seeds the repair is worse; "
        f"{'; '.join(text)}",
        decide(everywhere(true), somewhere(false)),
        f"{NAMES[repaired]} is better than {NAMES[plain]} at {' and '.join(better) or 'no σ'}",
    )
