"""B.1: epsilon of LaProp and of Adam over eighteen decades, on our MNIST net."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import (
    Estimate,
    every_above,
    every_within,
    log_ratio,
    mean,
)
from scripts.effects import ratio
from scripts.figures import style
from scripts.paper import NAMES, Measured

USUAL = 1e-15
LOW, HIGH = math.log(0.95), math.log(1.05)


def finding(results: Results) -> str:
    """The title."""
    any_one = {
        True: "LaProp's ε may be anything from 1e-20 to 1e-8",
        False: "LaProp's ε may not be anything from 1e-20 to 1e-8",
        None: "it is undecided whether LaProp's ε may be anything from 1e-20 to 1e-8",
    }
    found = ratios(results, "laprop", 1e-4, USUAL).values()
    low, high = (
        100 * math.expm1(end) for end in (min(r.low for r in found), max(r.high for r in found))
    )
    slow = {
        True: f"raises the loss by {low:.1f} to {high:.1f} %",
        False: f"does not raise the loss ({low:+.1f} to {high:+.1f} %)",
        None: f"changes the loss by less than {math.ceil(10 * max(-low, high)) / 10:.1f} % "
        "(95 % intervals)",
    }
    return (
        f"On our MNIST net {any_one[epsilon_free(results).held]}; "
        f"1e-4 {slow[epsilon_slows(results).held]}"
    )


def draw(results: Results) -> Figure:
    """Final loss against epsilon, a panel per nu."""
    runs = results.runs
    nus = sorted(runs.nu.unique())
    figure, axes = plt.subplots(1, len(nus), figsize=(3.9 * len(nus), 3.8), sharey=True)
    for axis, nu in zip(axes, nus, strict=True):
        for optimizer in ("laprop", "adam"):
            cell = runs[(runs.optimizer == optimizer) & (runs.nu == nu)].groupby("epsilon")
            found = [mean(np.log(loss)) for _, loss in cell.final_loss]
            style.geometric(axis, list(cell.groups), found, marker=".", **style.line(optimizer))
        axis.set(xscale="log", yscale="log", xlabel="ε", title=f"ν {nu:g}")
        style.plain(axis.yaxis)
        axis.set_xticks([1e-20, 1e-16, 1e-12, 1e-8, 1e-4], minor=False)
        style.paper(axis, "any ε up to here\nis as good", x=1e-8, at=0.75, before=True)
        style.paper(axis, "slows\nLaProp", x=1e-4, at=0.75, before=True)
    axes[0].set_ylabel("final training loss")
    style.legend(figure, axes[0], 2)
    style.provenance(figure, results, "geometric mean over seeds with 95 % intervals")
    return figure


# Claims -------------------------------------------------------------------------------------------


def losses(results: Results, optimizer: str, epsilon: float, nu: float) -> pd.Series:
    """Final loss by seed."""
    runs = results.runs
    chosen = runs[
        (runs.optimizer == optimizer)
        & np.isclose(runs.epsilon, epsilon, atol=0)
        & np.isclose(runs.nu, nu)
    ]
    return chosen.set_index("seed").final_loss


def ratios(results: Results, optimizer: str, epsilon: float, base: float) -> dict[float, Estimate]:
    """Ratio of the losses at two epsilons, for each nu."""
    return {
        nu: log_ratio(losses(results, optimizer, epsilon, nu), losses(results, optimizer, base, nu))
        for nu in sorted(results.runs.nu.unique())
    }


def same(log: Estimate) -> bool:
    """Whether the two losses are equal to the last bit for every seed; then no test is needed."""
    return log.centre == 0 and math.isnan(log.error)


def told(found: dict[float, Estimate]) -> str:
    """The ratios for each nu, in words."""
    return ", ".join(f"{'equal' if same(r) else ratio(r)} at ν {nu:g}" for nu, r in found.items())


def epsilon_free(results: Results) -> Measured:
    """Whether every epsilon up to 1e-8 is equivalent to the usual one, at every nu."""
    every = sorted(results.runs.epsilon.unique())
    found = {e: ratios(results, "laprop", e, USUAL) for e in every if e < 2e-8 and e != USUAL}
    text = "; ".join(f"{e:g} {told(by_nu)}" for e, by_nu in found.items())
    every_ratio = [r for by_nu in found.values() for r in by_nu.values()]
    return within(f"LaProp's final loss over that at 1e-15: {text}", every_ratio)


def within(text: str, found: list[Estimate]) -> Measured:
    """Whether every ratio is equivalent to 1, by what ``text`` says was measured."""
    differ = [r for r in found if not same(r)]
    furthest = math.exp(max((abs(r.centre) for r in differ), default=0))
    return Measured(
        text,
        every_within(differ, LOW, HIGH) if differ else True,
        f"the loss changes by a factor of at most {furthest:.3f}; the claim allows 1.05",
        [ratio(r) for r in differ],
    )


def equivalent(results: Results, optimizer: str, epsilon: float, base: float) -> Measured:
    """Whether the losses at two epsilons are equivalent, at every nu."""
    found = ratios(results, optimizer, epsilon, base)
    return within(_compared(optimizer, epsilon, base, found), [*found.values()])


def _compared(optimizer: str, epsilon: float, base: float, found: dict[float, Estimate]) -> str:
    name = NAMES[optimizer]
    return f"{name}'s final loss at epsilon {epsilon:g} over that at {base:g}: {told(found)}"


def higher(results: Results, optimizer: str, epsilon: float, base: float) -> Measured:
    """Whether the loss at one epsilon is above that at another, at every nu."""
    found = ratios(results, optimizer, epsilon, base)
    held = False if any(map(same, found.values())) else every_above(found.values())
    lowest = math.exp(min(r.centre for r in found.values()))
    return Measured(
        _compared(optimizer, epsilon, base, found),
        held,
        f"the loss is at least {lowest:.3f} times as high; the claim needs more than 1 at every ν",
        [ratio(r) for r in found.values()],
    )


def epsilon_slows(results: Results) -> Measured:
    """Whether epsilon 1e-4 gives LaProp a higher loss."""
    return higher(results, "laprop", 1e-4, USUAL)


def small_epsilon_hurts_adam(results: Results) -> Measured:
    """Whether epsilon 1e-15 gives Adam a higher loss than its usual 1e-8."""
    return higher(results, "adam", USUAL, 1e-8)
