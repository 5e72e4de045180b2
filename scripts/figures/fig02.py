"""Figure 2, section 5.1: updates until the noisy Rosenbrock function converges, against nu.

A setting converges where most of its seeds do; the median over all seeds, with infinity for those
that do not converge, is then finite. At nu = 0 Adam runs away to infinity and only passes the
minimum. The claims about Adam and AMSGrad look at nu above 0 alone.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import (
    ALPHA,
    decide,
    everywhere,
    median,
    share_above,
    share_below,
    somewhere,
)
from scripts.effects import Effect
from scripts.figures import style
from scripts.paper import NAMES, Measured

OTHERS = ("adam", "amsgrad")
FIRST = "a path converges when it first comes near the minimum, and may leave again"
HOLLOW = "hollow: at ν 0 Adam only passes the minimum on its way to infinity"
RANGE = {"halfwidth": "(−σ, σ)", "width": "(−σ/2, σ/2)"}  # of the noise, by the reading of sigma
READING = {
    "halfwidth": f"the paper's text:\nnoise in {RANGE['halfwidth']}",
    "width": f"σ as the whole width:\nnoise in {RANGE['width']}",
}
SHOWN = 0.1  # the sigma of the title
UPDATES = "updates until it converges"  # on axes


def finding(results: Results) -> str:
    """The title: where each optimizer converges at sigma 0.1, by both readings of sigma."""
    return (
        f"Rosenbrock, lr 0.01, σ {SHOWN:g}, noise in {RANGE['halfwidth']}: "
        f"{converging(results, 'halfwidth')}; "
        f"{RANGE['width']}: {converging(results, 'width', verb=False)}"
    )


def aside() -> str:
    """What the README adds to the finding."""
    return (
        ". The paper's text gives the first range of the noise; its figure fits the second better. "
        "A path converges when it first comes near the minimum, and may leave again"
    )


def converging(results: Results, noise: str, verb: bool = True) -> str:
    """For which nu each optimizer converges, in words."""
    by_reach: dict[str, list[str]] = {}
    for optimizer in ("laprop", *OTHERS):
        steps = steps_by_nu(results, optimizer, noise, "sigma", SHOWN)
        where = reach(medians(steps))
        by_reach.setdefault(where, []).append(NAMES[optimizer])
    parts = []
    for where, names in by_reach.items():
        converge = ("converges " if len(names) == 1 else "converge ") if verb else ""
        parts.append(f"{' and '.join(names)} {converge}{where}")
        verb = False
    return ", ".join(parts)


def draw(results: Results) -> Figure:
    """Two readings of sigma, four noise levels each."""
    return panels(results, "sigma", "σ {:g}", "lr 0.01, µ 0.9")


def panels(results: Results, column: str, label: str, setting: str) -> Figure:
    """A row of updates until convergence per reading of sigma.

    Args:
        results: runs with columns optimizer, nu, noise, seed, steps_to_converge and ``column``.
        column: what differs from left to right; its values go into ``label``.
        label: format of a column's heading.
        setting: what the panels have in common.
    """
    runs = results.runs
    values = sorted(runs[column].unique())
    figure, axes = plt.subplots(
        2,
        len(values),
        figsize=(2.15 * len(values) + 0.8, 4.8),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for row, (noise, reading) in zip(axes, READING.items(), strict=True):
        for axis, value in zip(row, values, strict=True):
            chosen = runs[(runs.noise == noise) & (runs[column] == value)]
            for optimizer, cell in chosen.groupby("optimizer"):
                curve(axis, cell, str(optimizer))
            axis.set(yscale="log", ylim=(100, 1.3 * longest(results, runs)))
            last = longest(results, chosen)
            axis.axhline(last, color="#999999", linewidth=0.8, linestyle=":")
        row[0].set_ylabel(f"{UPDATES}\n{reading}")
    for axis, value in zip(axes[0], values, strict=True):
        axis.set_title(label.format(value))
    for axis in axes[-1]:
        axis.set_xlabel("ν")
    legend = style.legend(figure, axes[0, 0], 3)
    plt.setp(legend.legend_handles, marker="")  # markers would hide the dashes
    style.provenance(
        figure,
        results,
        f"{setting}; median of all seeds, 95 % intervals; {FIRST}; no mark: most seeds do not "
        f"converge by the dotted line, where the runs end; {HOLLOW}",
    )
    return figure


def curve(axis: Axes, cell: pd.DataFrame, optimizer: str) -> None:
    """Median updates until convergence against nu, with their intervals."""
    by_nu = cell.groupby("nu").steps_to_converge
    nu = np.array(list(by_nu.groups))
    middle, low, high = np.array([median(v) for _, v in by_nu]).T
    middle = np.where(np.isfinite(middle), middle, np.nan)
    by_chance = (nu == 0) & (optimizer == "adam")
    line = np.where(by_chance, np.nan, middle)
    axis.plot(nu, line, marker=".", markersize=3, **style.line(optimizer))
    look: dict[str, Any] = {"color": style.COLOUR[optimizer], "markerfacecolor": "white"}
    axis.plot(nu[by_chance], middle[by_chance], "o", markersize=4, **look)
    top = 1e6  # an infinite end of an interval is beyond the picture
    shown = np.isfinite(low) & ~by_chance
    axis.fill_between(
        nu,
        low,
        np.minimum(high, top),
        where=shown,
        color=style.COLOUR[optimizer],
        alpha=0.2,
        linewidth=0,
    )


# Claims -------------------------------------------------------------------------------------------


def longest(results: Results, runs: pd.DataFrame) -> int:
    """The largest number of updates that these runs could take."""
    settings = results.manifest["settings"]
    return int(runs.updates.max() if "updates" in runs else settings["task.updates"])


def steps_by_nu(
    results: Results, optimizer: str, noise: str, column: str, value: float
) -> pd.Series:
    """Updates until each seed converges, for each nu; nu = 0 is kept for LaProp alone."""
    runs = results.runs
    chosen = runs[
        (runs.optimizer == optimizer) & (runs.noise == noise) & np.isclose(runs[column], value)
    ]
    if optimizer in OTHERS:
        chosen = chosen[chosen.nu > 0]
    return chosen.groupby("nu").steps_to_converge


def medians(by_nu: pd.Series) -> pd.Series:
    """Median updates until convergence by nu; infinite where most seeds never converge."""
    return by_nu.apply(lambda steps: median(steps)[0])


def reach(steps: pd.Series) -> str:
    """The range of nu in which the medians are finite: ``for ν up to 0.45``."""
    nu, tried = steps.index[np.isfinite(steps)], steps.index
    above = "" if 0 in tried else " above 0"
    if len(nu) == 0:
        return f"for no ν{above}"
    if len(nu) == len(tried):
        return f"for every ν{above}"
    last = tried[(tried >= nu.min()) & (tried <= nu.max())]
    if len(nu) < len(last):
        return f"for ν {nu.min():g} to {nu.max():g} with gaps"
    if nu.min() == 0:
        return f"for ν up to {nu.max():g}"
    if nu.max() == tried.max():
        return f"from ν {nu.min():g} on"
    return f"for ν {nu.min():g} to {nu.max():g}"


def converges(by_nu: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """For each nu the p-values of "most seeds converge" and of "most seeds do not"."""
    return share_above(by_nu.count(), by_nu.size()), share_below(by_nu.count(), by_nu.size())


def flat_at_small_noise(results: Results, noise: str, margin: float) -> Measured:
    """Whether all nu converge alike: an equivalence test of the slowest nu over the fastest."""
    ratio = {}
    for optimizer in ("laprop", *OTHERS):
        steps = medians(steps_by_nu(results, optimizer, noise, "sigma", 0.04))
        ratio[optimizer] = steps.max() / steps.min()
    by_nu = steps_by_nu(results, "laprop", noise, "sigma", 0.04)
    ends = np.array([median(steps, ALPHA / len(by_nu))[1:] for _, steps in by_nu])
    least, most = (ends[:, i].max() / ends[:, 1 - i].min() for i in (0, 1))
    least = max(least, 1.0)
    found = f"{ratio['laprop']:.2f} [{least:.2f}, {most:.2f}]"
    slower = Effect(found, "ratio", ratio["laprop"], least, most)
    text = f"median updates of the slowest ν over those of the fastest: LaProp {slower}, "
    text += ", ".join(
        f"{NAMES[o]} {ratio[o]:.2f}" if np.isfinite(ratio[o]) else f"{NAMES[o]} infinite"
        for o in OTHERS
    )
    held = True if most <= margin else False if least > margin else None
    apart = f"LaProp's slowest ν takes {ratio['laprop']:.2f} times the updates of its fastest; "
    apart += f"the claim allows {margin:g}"
    return Measured(text, held, apart, [slower])


def smooth_in_nu(results: Results, noise: str, margin: float) -> Measured:
    """LaProp's median updates at each nu over those at the next, by intervals for all pairs."""
    held, text, furthest, where = [], [], {}, []
    for optimizer in ("laprop", *OTHERS):
        for sigma in (0.04, 0.1):
            by_nu = steps_by_nu(results, optimizer, noise, "sigma", sigma)
            middle, low, high = np.array([median(v, ALPHA / len(by_nu)) for _, v in by_nu]).T
            with np.errstate(invalid="ignore"):  # two that never arrive: inf / inf, no step
                steps = np.maximum(middle[1:] / middle[:-1], middle[:-1] / middle[1:])
                most = np.maximum(high[1:] / low[:-1], high[:-1] / low[1:])
                least = np.maximum(low[1:] / high[:-1], low[:-1] / high[1:])
            never = not np.isfinite(middle).any()
            furthest[optimizer, sigma] = np.nan if never else np.fmax.reduce(steps, initial=1.0)
            if optimizer == "laprop":
                arrives = bool(np.isfinite(middle).all())
                smooth = arrives and bool((most <= margin).all())
                jumps = bool(np.isinf(low).any() or (least > margin).any())
                held.append(True if smooth else False if jumps else None)
                where.append(f"{reach(medians(by_nu))} at σ {sigma:g}")
    for optimizer in ("laprop", *OTHERS):
        steps = [furthest[optimizer, sigma] for sigma in (0.04, 0.1)]
        words = {np.inf: "infinite", np.nan: "never converges"}
        found = [f"{step:.2f}" if np.isfinite(step) else words[step] for step in steps]
        text.append(f"{NAMES[optimizer]} {' and '.join(found)}")
    largest = max(furthest["laprop", sigma] for sigma in (0.04, 0.1))
    apart = f"LaProp's updates at neighbouring ν differ by up to {largest:.2f} times; the claim "
    apart += f"allows {margin:g}"
    if not np.isfinite(largest):
        apart = "LaProp does not converge at every ν, as the claim needs"
    return Measured(
        f"LaProp converges {' and '.join(where)}; largest ratio of the medians at neighbouring ν "
        "(infinite where one of them does not converge), at σ 0.04 and at 0.1: "
        f"{', '.join(text)}",
        False if False in held else None if None in held else True,
        apart,
    )


def large_nu_at_medium_noise(results: Results, noise: str) -> Measured:
    """Whether Adam and AMSGrad converge at the largest nu."""
    by = {o: steps_by_nu(results, o, noise, "sigma", 0.1) for o in OTHERS}
    true, false = np.transpose([[p[-1] for p in converges(by[o])] for o in OTHERS])
    return _at(by, -1, decide(everywhere(true), somewhere(false)), "more than half")


def small_nu_at_medium_noise(results: Results, noise: str) -> Measured:
    """Whether Adam and AMSGrad fail to converge at the smallest nu above 0."""
    by = {o: steps_by_nu(results, o, noise, "sigma", 0.1) for o in OTHERS}
    false, true = np.transpose([[p[0] for p in converges(by[o])] for o in OTHERS])
    return _at(by, 0, decide(everywhere(true), somewhere(false)), "less than half")


def _at(by: dict[str, pd.Series], place: int, held: bool | None, needed: str) -> Measured:
    shares = {o: (g.count() / g.size()).iloc[place] for o, g in by.items()}
    nu = by["adam"].size().index[place]
    at = ", ".join(f"{NAMES[o]} {share:.0%}" for o, share in shares.items())
    of_each = " and ".join(f"{share:.0%} of {NAMES[o]}'s" for o, share in shares.items())
    text = ", ".join(f"{NAMES[o]} converges {reach(medians(g))}" for o, g in by.items())
    return Measured(
        f"{text}; share of seeds that converge at ν {nu:g}: {at}",
        held,
        f"{of_each} seeds converge at ν {nu:g}; the claim needs {needed} of each",
    )


def fastest_at_small_nu(results: Results, noise: str) -> Measured:
    """Whether LaProp's median is lowest at the smallest nu above 0; three intervals decide."""
    ends, text = {}, []
    for optimizer in ("laprop", *OTHERS):
        by_nu = steps_by_nu(results, optimizer, noise, "sigma", 0.1)
        nu = min(nu for nu in by_nu.groups if nu > 0)
        middle, *ends[optimizer] = median(by_nu.get_group(nu), ALPHA / 3)
        low, high = ends[optimizer]
        found = f"{middle:,.0f} [{low:,.0f}, {high:,.0f}]" if np.isfinite(middle) else "never"
        text.append(f"{NAMES[optimizer]} {found}")
    low, high = ends["laprop"]
    held = None
    if high < min(ends[o][0] for o in OTHERS):
        held = True
    elif low > min(ends[o][1] for o in OTHERS):
        held = False
    return Measured(f"median updates at ν {nu:g}: {', '.join(text)}", held,
                    f"updates at ν {nu:g}: {', '.join(text)}; the claim needs LaProp's to be the "
                    "fewest")  # fmt: skip


def only_laprop_at_large_noise(results: Results, noise: str) -> Measured:
    """Whether at both sigmas LaProp converges at some nu, and the others at none above 0."""
    text, true, false = [], [], []
    for sigma in (0.12, 0.16):
        words = []
        for optimizer in ("laprop", *OTHERS):
            by_nu = steps_by_nu(results, optimizer, noise, "sigma", sigma)
            does, does_not = converges(by_nu)
            if optimizer == "laprop":
                true.append(somewhere(does))
                false.append(everywhere(does_not))
            else:
                true.append(everywhere(does_not))
                false.append(somewhere(does))
            words.append(f"{NAMES[optimizer]} {reach(medians(by_nu))}")
        text.append(f"σ {sigma:g}: {', '.join(words)}")
    held = decide(everywhere(true), somewhere(false))
    return Measured(f"converges, {'; '.join(text)}", held,
                    "as in the paper's panels, where LaProp's is the only curve" if held else
                    "the paper's panels have LaProp's curve alone")  # fmt: skip


# Discrepancies ------------------------------------------------------------------------------------


def rosenbrock_sigma(results: Results) -> str:
    """The nu at which each optimizer converges, under each reading of sigma."""
    text = []
    for noise, reading in (("halfwidth", "sigma"), ("width", "σ/2")):
        for sigma in (0.1, 0.12):
            where = {
                o: reach(medians(steps_by_nu(results, o, noise, "sigma", sigma)))
                for o in ("adam", "amsgrad", "laprop")
            }
            names = ", ".join(f"{NAMES[o]} {nu}" for o, nu in where.items())
            text.append(f"noise in (-{reading}, {reading}), σ {sigma:g}: {names}")
    return f"who converges where: {'; '.join(text)}"
