"""B.4 and B.5: AmsProp and centered LaProp beside LaProp, AMSGrad beside Adam, on our MNIST net.

Learning rate and nu of each are chosen on one half of the seeds, and judged on the other.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import Estimate, decide, every_above, log_ratio, mean
from scripts import words
from scripts.effects import ratio
from scripts.figures import style
from scripts.paper import NAMES, Measured

OPTIMIZERS = ("laprop", "amsprop", "centered", "adam", "amsgrad")
ADVANTAGE = 0.98


def finding(results: Results) -> str:
    """The title."""
    return "Tuned alike, final loss over LaProp's: " + ", ".join(
        f"{NAMES[v]} {ratio(against(results, v, 'laprop'))}"
        for v in ("amsprop", "centered", "adam", "amsgrad")
    )


def draw(results: Results) -> Figure:
    """Final loss against the learning rate at the best nu, a panel per family."""
    runs = results.runs
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    for axis, family in zip(axes, (OPTIMIZERS[:3], OPTIMIZERS[3:]), strict=True):
        for optimizer in family:
            _, nu = chosen(results, optimizer)
            cell = runs[(runs.optimizer == optimizer) & (runs.nu == nu)].groupby("lr").final_loss
            found = [mean(np.log(loss)) for _, loss in cell]
            look = style.line(optimizer) | {"label": f"{NAMES[optimizer]}, ν {nu:g}"}
            style.geometric(axis, list(cell.groups), found, marker=".", **look)
        axis.set(xscale="log", yscale="log", xlabel="lr")
        style.plain(axis.yaxis)
        style.plain(axis.xaxis)
        axis.legend()
    axes[0].set_ylabel("final training loss")
    style.provenance(
        figure,
        results,
        "at each optimizer's best ν; AmsProp: LaProp with AMSGrad's maximum; centered: with the "
        "variance in place of the second moment; geometric mean, 95 % intervals",
    )
    return figure


# Claims -------------------------------------------------------------------------------------------


def halves(runs: pd.DataFrame) -> tuple[list[int], list[int]]:
    """The seeds that choose an optimizer's settings, and those that judge it."""
    seeds = sorted(runs.seed.unique())
    return seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :]


def told(runs: pd.DataFrame, lr: float, nu: float) -> str:
    """The chosen settings, and which of them lie at an end of the grid that could go on."""
    best = {"lr": lr, "nu": nu}
    edges = [k for k in best if best[k] and best[k] in (runs[k].min(), runs[k].max())]
    edge = f", {words.greek(' and '.join(edges))} at an end of the grid" if edges else ""
    return f"lr {lr:g}, ν {nu:g}{edge}"


def chosen(results: Results, optimizer: str) -> tuple[float, float]:
    """The lr and nu of the lowest mean final loss over the first half of the seeds.

    A setting at which a seed diverged is not chosen.
    """
    runs = results.runs[results.runs.optimizer == optimizer]
    loss = runs[runs.seed.isin(halves(runs)[0])].fillna({"final_loss": np.inf})
    lr, nu = loss.groupby(["lr", "nu"]).final_loss.mean().idxmin()
    return float(lr), float(nu)


def judged(results: Results, optimizer: str) -> pd.Series:
    """Final loss of the other half of the seeds at the chosen lr and nu, by seed."""
    lr, nu = chosen(results, optimizer)
    runs = results.runs[results.runs.optimizer == optimizer]
    cell = runs[(runs.lr == lr) & (runs.nu == nu) & runs.seed.isin(halves(runs)[1])]
    return cell.set_index("seed").final_loss


def against(results: Results, variant: str, plain: str) -> Estimate:
    """A variant's loss over the plain one's, each tuned."""
    return log_ratio(judged(results, variant), judged(results, plain))


def _over(results: Results, variant: str, plain: str) -> str:
    settings = "; ".join(
        f"{NAMES[o]} {told(results.runs[results.runs.optimizer == o], *chosen(results, o))}"
        for o in (variant, plain)
    )
    return f"{ratio(against(results, variant, plain))} ({settings})"


def no_advantage(results: Results, variant: str) -> Measured:
    """The variant's loss over LaProp's is above the margin, by the interval."""
    log = against(results, variant, "laprop")
    return Measured(
        f"{NAMES[variant]}'s final loss over LaProp's: {_over(results, variant, 'laprop')}",
        decide(log.above(math.log(ADVANTAGE)), log.below(math.log(ADVANTAGE))),
        f"the loss is {math.exp(log.centre):.3f} times LaProp's; below {ADVANTAGE:g} would be an "
        "advantage",
        [ratio(log)],
    )


def repair_harms(results: Results, repaired: str, plain: str) -> Measured:
    """The loss of the variant is above that of the optimizer that it changes."""
    log = against(results, repaired, plain)
    return Measured(
        f"{NAMES[repaired]}'s final loss over {NAMES[plain]}'s: {_over(results, repaired, plain)}",
        every_above([log]),
        f"the loss is {math.exp(log.centre):.3f} times {NAMES[plain]}'s; the claim needs more "
        "than 1",
        [ratio(log)],
    )
