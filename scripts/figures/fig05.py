"""Figure 5: training loss on IWSLT14 and of RoBERTa, without and with warmup of the rate.

Above the authors' runs, below ours; at the paper's scale both stand in one panel.
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter1d

from experiments.common.records import Results, load
from scripts import make_authors
from scripts.figures import style

AUTHORS = "authors' runs, one each"
SIGMA = 3  # updates; of our own runs at a reduced scale


def draw(results: Results | None) -> Figure:
    """A panel for each training; below it ours, if at a reduced scale. ``results``: of IWSLT14."""
    ours = {"iwslt": results, "roberta": load("fig10")}
    below = any(r is not None and r.scale != "paper" for r in ours.values())
    size = (8.2, 5.6 if below else 3.2)
    figure, rows = plt.subplots(1 + below, 2, figsize=size, squeeze=False)
    names = {"iwslt": "IWSLT14 de-en", "roberta": "RoBERTa, ν 0.999"}
    for column, (task, name) in zip(rows.T, names.items(), strict=True):
        run, theirs = ours[task], make_authors.load(task)
        if task == "roberta":
            theirs = theirs[theirs.nu == 0.999]
        panel(column[0], theirs)
        column[0].set(title=name, xlabel="updates")
        column[0].xaxis.set_major_locator(MaxNLocator(5))
        if run is None:
            if below:
                blank(column[1], "not run here")
            continue
        curves = run.curves if task == "iwslt" else run.curves[run.curves.nu == 0.999]
        if run.scale == "paper":
            own(column[0], curves, make_authors.SIGMA[task])
        else:
            own(column[1], curves, SIGMA)
            column[1].set_xlabel("updates")
        if below and run.scale == "paper":
            blank(column[1], "ours above")
    rows[0, 0].set_ylabel(f"training loss, bits\n{AUTHORS}")
    if below:
        rows[1, 0].set_ylabel("training loss, bits\nours, reduced scale")
    legend(figure)
    note(figure, list(ours.values()))
    return figure


def panel(axis: Axes, theirs: pd.DataFrame) -> None:
    """The authors' curves: a line for each optimizer and warmup."""
    for (optimizer, warmup), curve in theirs.groupby(["optimizer", "warmup"]):
        axis.plot(curve["update"], curve.loss, **look(optimizer, warmup) | {"linewidth": 1})


def own(axis: Axes, curves: pd.DataFrame, sigma: float) -> None:
    """Our curves, smoothed: the mean over seeds, and the range of the seeds."""
    for (optimizer, warmup), arm in curves.groupby(["optimizer", "warmup"]):
        seeds = arm.pivot(index="step", columns="seed", values="train_loss")
        smooth = gaussian_filter1d(seeds.to_numpy(), sigma, axis=0)
        look_ = look(optimizer, warmup)
        axis.plot(seeds.index, smooth.mean(1), **look_)
        axis.fill_between(
            seeds.index, smooth.min(1), smooth.max(1), color=look_["color"], alpha=0.15, linewidth=0
        )


def blank(axis: Axes, text: str) -> None:
    """A panel that only says why it is empty."""
    axis.set_axis_off()
    axis.text(0.5, 0.5, text, ha="center", transform=axis.transAxes, color="#666666")


def look(optimizer: str, warmup: float) -> dict[str, object]:
    """Colour by optimizer; dashed with warmup."""
    return {
        "color": style.COLOUR[optimizer],
        "linestyle": (0, (4, 1.5)) if warmup else "solid",
        "linewidth": 1.4,
    }


def legend(figure: Figure) -> None:
    """One legend of the four kinds of lines."""
    names = {0: "", 1: ", warmup"}
    figure.legend(
        [Line2D([], [], **look(o, w)) for o in ("adam", "laprop") for w in names],
        [style.NAME[o] + names[w] for o in ("adam", "laprop") for w in names],
        loc="outside upper center",
        ncols=4,
    )


def note(figure: Figure, ours: list[Results | None]) -> None:
    """What the lines are, below."""
    text = "authors' runs as published, Gaussian sigma 70 (IWSLT14) and 6 (RoBERTa) updates"
    shown = [results for results in ours if results is not None]
    text += "; ours: mean and range of the seeds" if shown else "; ours: not run"
    for results in shown:
        sigma = "" if results.scale == "paper" else f", sigma {SIGMA}"
        text += f"\n{results.manifest['task']}: {results.label}{sigma}"
    style.below(figure, text)
