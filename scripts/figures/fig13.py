"""Figure 13, appendix C.7: final training and test loss of ResNet-20 on CIFAR-10 over mu and nu.

What has diverged, and which cells are stable, is decided as for Figure 12.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.common.records import Results
from experiments.common.stats import (
    Estimate,
    decide,
    every_above,
    every_below,
    everywhere,
    interval,
    mean,
    paired,
)
from scripts.effects import difference
from scripts.figures import style
from scripts.figures.fig12 import OPTIMIZERS, common, maps, outcomes
from scripts.paper import NAMES, Measured

MU, NU = 0.95, 0.4  # up to which, as the paper says, Adam's test loss rises (C.7)


def finding(results: Results) -> str:
    """The title."""
    large = [f"{nu:g}" for nu in sorted(results.runs.nu.unique()) if nu > NU]
    other = f"ν {large[0]}" if len(large) == 1 else "larger ν"
    found = {o: rise(results, o) for o in OPTIMIZERS}
    gaps = ", ".join(f"{NAMES[o]} {gap:+.3f}" for o, gap in found.items())
    both = " (both undecided)" * all(gap.low < 0 < gap.high for gap in found.values())
    return f"Final test loss at ν ≤ {NU:g} minus that at {other}, at equal µ: {gaps}{both}"


def draw(results: Results) -> Figure:
    """Training loss above, test loss below; a map for each optimizer."""
    columns = {"train_loss": "training loss", "test_loss": "test loss"}
    note = f"dashed box: µ ≤ {MU:g} and ν ≤ {NU:g}, where in the paper Adam's test loss rises"
    figure = maps(results, columns, 1, "{:.2f}", "cividis_r", note)
    mus, nus = (np.unique(results.runs[name]) for name in ("mu", "nu"))
    right, top = (np.searchsorted(values, end, "right") for values, end in ((mus, MU), (nus, NU)))
    adam = figure.axes[len(OPTIMIZERS) + OPTIMIZERS.index("adam")]  # in the row of the test loss
    adam.add_patch(Rectangle((-0.47, -0.47), right - 0.06, top - 0.06, fill=False, **style.PAPER))
    adam.set_title("Adam, paper: rises in the box")
    return figure


# Claims -------------------------------------------------------------------------------------------


def rise(results: Results, optimizer: str) -> Estimate:
    """Final test loss at nu up to NU minus that at larger nu, of stable cells with mu up to MU.

    The two are compared at the same mu, because which mu are stable depends on nu.
    """
    runs = outcomes(results.runs)
    chosen = runs[(runs.optimizer == optimizer) & (runs.mu <= MU)]
    stable = chosen.groupby(["mu", "nu"]).filter(lambda cell: not cell.diverged.any())
    loss = stable.groupby(["seed", "mu", stable.nu <= NU]).test_loss.mean().unstack("nu")
    both = loss.reindex(columns=[True, False]).dropna().groupby("seed").mean()
    return paired(both[True], both[False])


def cifar_test_loss(results: Results, optimizer: str, margin: float) -> Measured:
    """Whether the loss is higher at small nu; with a ``margin``, whether by less than that."""
    found = rise(results, optimizer)
    held = every_below([found], margin) if margin else every_above([found])
    return Measured(
        f"mean final test loss of {NAMES[optimizer]}'s stable cells with µ up to {MU:g}, at ν up "
        f"to {NU:g} minus that at larger ν and the same µ: {difference(found, '+.3f')}",
        held,
        f"at ν up to {NU:g} the loss is {found.centre:+.3f} against larger ν; the claim "
        + (f"allows {margin:+g}" if margin else "needs more than 0"),
        [difference(found, "+.3f")],
    )


def spreads(results: Results) -> tuple[dict[str, pd.Series], str]:
    """How much the final training loss varies over the common cells.

    Returns:
        for each optimizer the standard deviation of the logarithm, by seed; and the start of a
        sentence about it.
    """
    runs = common(results)
    table = np.log(runs.train_loss).groupby([runs.optimizer, runs.seed]).std()
    what = (
        "standard deviation of the logarithm of the final training loss, over the "
        f"{runs.groupby(['mu', 'nu']).ngroups} cells where both are stable"
    )
    return {o: table[o] for o in OPTIMIZERS}, what


def cifar_training_loss_laprop(results: Results, margin: float) -> Measured:
    """Whether LaProp's final training loss varies by more than the margin."""
    spread, what = spreads(results)
    found = mean(spread["laprop"])
    return Measured(f"{what}: LaProp {found:.3f}", every_above([found], margin),
                    f"the standard deviation is {found.centre:.3f}; the claim needs "
                    f"{margin:g}")  # fmt: skip


def cifar_training_loss_adam(results: Results, margin: float) -> Measured:
    """Whether Adam's final training loss varies by less than the margin, and less than LaProp's."""
    spread, what = spreads(results)
    found, gap = mean(spread["adam"]), paired(spread["adam"], spread["laprop"])
    runs = common(results)
    cells = runs[runs.optimizer == "adam"].groupby(["mu", "nu"]).train_loss.mean()
    more = difference(gap, "+.3f")
    return Measured(
        f"{what}: Adam {found:.3f}, Adam's minus LaProp's {more}; Adam's loss is {cells.min():.2f} "
        f"in the lowest cell and {cells.max():.2f} in the highest",
        decide(everywhere([found.below(margin), gap.below()]), found.above(margin)),
        f"the standard deviation is {found.centre:.3f}; the claim allows {margin:g}, and less than "
        f"LaProp's {spread['laprop'].mean():.3f}",
        [more],
    )


def cifar_loss_and_accuracy(results: Results, limit: float) -> Measured:
    """The rank correlation of test loss and test error over the common cells."""
    runs = common(results)
    ranks = runs[["test_loss", "test_accuracy"]].groupby([runs.optimizer, runs.seed])
    found = -ranks.corr(method="spearman").test_loss.xs("test_accuracy", level=2)
    cells = {o: mean(found[o].to_numpy()) for o in ("laprop", "adam")}
    text = ", ".join(
        f"{NAMES[o]} {cell.centre:.2f} {interval(max(cell.low, -1), min(cell.high, 1), '.2f')}"
        for o, cell in cells.items()
    )
    held = every_below(cells.values(), limit)
    return Measured(
        "rank correlation of test loss and test error over the "
        f"{runs.groupby(['mu', 'nu']).ngroups} cells where both are stable: {text}",
        held,
        f"the correlation is at most {max(cell.centre for cell in cells.values()):.2f}; "
        f"the claim needs less than {limit:g}",
    )
