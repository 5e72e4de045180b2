"""Figure 13, appendix C.7: final training and test loss of ResNet-20 on CIFAR-10 over mu and nu.

What has diverged, and which cells are stable, is told as for Figure 12.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.common.records import Results
from experiments.common.stats import Estimate, every_above, every_below, mean, paired
from scripts.effects import difference
from scripts.figures import style
from scripts.figures.fig12 import OPTIMIZERS, common, maps, outcomes
from scripts.paper import NAMES, Measured

MU, NU = 0.95, 0.4  # up to which, as the paper says, Adam's test loss rises (C.7)


def finding(results: Results) -> str:
    """The title."""
    found = {o: rise(results, o) for o in ("laprop", "adam")}
    return f"ν up to {NU:g} in place of a larger one, same µ, changes the final test loss by " + (
        ", ".join(f"{gap:+.3f} with {NAMES[o]}" for o, gap in found.items())
    )


def draw(results: Results) -> Figure:
    """Training loss above, test loss below; a map for each optimizer."""
    columns = {"train_loss": "training loss", "test_loss": "test loss"}
    figure = maps(results, columns, 1, "{:.3g}", "cividis_r")
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
    runs = outcomes(results)
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
        f"mean final test loss of {NAMES[optimizer]}'s stable cells with mu up to {MU:g}, at nu up "
        f"to {NU:g} minus that at larger nu and the same mu: {difference(found, '+.3f')}",
        held,
        f"{found.centre:+.3f} against the limit of {margin:g}",
        [difference(found, "+.3f")],
    )


def cifar_training_loss(results: Results, optimizer: str, depends: bool, margin: float) -> Measured:
    """The standard deviation over the common cells of the log of the final training loss."""
    runs = common(results)
    spread = np.log(runs.train_loss).groupby([runs.optimizer, runs.seed]).std()[optimizer]
    found = mean(spread)
    held = every_above([found], margin)
    return Measured(
        f"standard deviation of the log of {NAMES[optimizer]}'s final training loss over the "
        f"{runs.groupby(['mu', 'nu']).ngroups} cells where both are stable: {found:.3f}",
        held if depends or held is None else not held,
        f"{found.centre:.3f} against the margin of {margin:g}",
    )


def cifar_loss_and_accuracy(results: Results, limit: float) -> Measured:
    """The rank correlation of test loss and test error over the common cells."""
    runs = common(results)
    ranks = runs[["test_loss", "test_accuracy"]].groupby([runs.optimizer, runs.seed])
    found = -ranks.corr(method="spearman").test_loss.xs("test_accuracy", level=2)
    cells = {o: mean(found[o].to_numpy()) for o in ("laprop", "adam")}
    text = ", ".join(
        f"{NAMES[o]} {cell.centre:.2f} [{max(cell.low, -1):.2f}, {min(cell.high, 1):.2f}]"
        for o, cell in cells.items()
    )
    held = every_below(cells.values(), limit)
    return Measured(
        f"rank correlation of test loss and test error over the "
        f"{runs.groupby(['mu', 'nu']).ngroups} cells where both are stable: {text}",
        held,
        f"{max(cell.centre for cell in cells.values()):.2f} at most, against {limit:g}",
    )
