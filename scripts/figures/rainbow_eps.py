"""Whether the difference of the paper's two arms comes from epsilon or from the optimizer."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import Estimate, interquartile_mean, jackknife
from scripts.figures import style
from scripts.figures.fig11 import LARGE, PAPER, SMALL, Arm, areas, gap, name

PAIRS: dict[str, tuple[Arm, Arm]] = {
    "as in the paper:\nLaProp 1e-15 minus Adam 1.5e-4": PAPER,
    "ε 1.5e-4:\nLaProp minus Adam": (("laprop", LARGE), ("adam", LARGE)),
    "ε 1e-15:\nLaProp minus Adam": (("laprop", SMALL), ("adam", SMALL)),
    "Adam:\nε 1e-15 minus ε 1.5e-4": (("adam", SMALL), ("adam", LARGE)),
    "LaProp:\nε 1e-15 minus ε 1.5e-4": (("laprop", SMALL), ("laprop", LARGE)),
}


def finding(results: Results) -> str:
    """The title."""
    table = areas(results)
    whole, *parts = (gap(table, *pair) for pair in PAIRS.values())
    same = " and ".join(
        f"{one.centre:+.2f}" + " (undecided)" * (one.low < 0 < one.high) for one in parts[:2]
    )
    if all(one.low < 0 < one.high for one in parts[:2]):
        same = f"undecided ({parts[0].centre:+.2f}, {parts[1].centre:+.2f})"
    return (
        f"LaProp's area minus Adam's is {whole.centre:+.2f} with the authors' two ε, {same} at "
        f"equal ε; the smaller ε changes LaProp's area by {parts[3]:+.2f}"
    )


def draw(results: Results) -> Figure:
    """Left the area of each arm, right how far one is above another."""
    table = areas(results)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.9))
    shown = sorted(table, key=lambda arm: (arm[1], arm[0]))
    bars(left, [name(arm).replace(", ", ", ε ") for arm in shown],
         [jackknife(interquartile_mean, table[arm]) for arm in shown],
         [style.COLOUR[arm[0]] for arm in shown])  # fmt: skip
    left.set(xlabel="normalised area under the training curve,\ninterquartile mean")
    bars(right, list(PAIRS),
         [gap(table, a, b) for a, b in PAIRS.values()],
         ["#333333"] * len(PAIRS))  # fmt: skip
    right.axvline(0, color="#999999", linewidth=0.8)
    right.set(xlabel="difference of the interquartile means")
    style.provenance(figure, results, "95 % intervals, jackknife over seeds with Student's t")
    return figure


def bars(axis: Axes, names: list[str], values: list[Estimate], colours: list[str]) -> None:
    """A point with its interval for each name, from top to bottom."""
    for place, (found, colour) in enumerate(zip(values, colours, strict=True)):
        axis.plot([found.low, found.high], [place, place], color=colour, linewidth=2.5, alpha=0.5)
        axis.plot(found.centre, place, "o", color=colour, markersize=5)
    axis.set_yticks(np.arange(len(names)), names, fontsize=7.5)
    axis.invert_yaxis()
