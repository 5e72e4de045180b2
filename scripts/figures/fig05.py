"""Figure 5, section 5.4: training loss on IWSLT14 and of RoBERTa, without and with warmup.

The authors' runs are above, ours below; at the paper's scale both are in one panel. A training is
stuck if its loss is not more than MARGIN below that of a decoder that knows only how frequent each
token is, because every training reaches that loss at once.
"""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.common.records import Results, load
from experiments.common.stats import Estimate, decide, every_above, mean, paired
from scripts import make_authors
from scripts.effects import difference
from scripts.figures import style
from scripts.paper import NAMES, REDUCED, Measured

AUTHORS = "authors' runs, one each"
SIGMA = 3  # updates; the smoothing of our own runs at a reduced scale
MARGIN = 0.5  # bits below what knowing the frequencies of the words alone gives
JUDGED_AT = 2000  # shortened runs of the paper's setting are compared at this update


def finding(results: Results | None) -> str:
    """The title: without warmup, at the last update of ours and of the authors' runs."""
    runs = _last_losses(warmup=False)
    text = "IWSLT14 without warmup, training loss: the authors' Adam ends at "
    text += f"{runs.adam:.2f} bits and their LaProp at {runs.laprop:.2f}"
    if results is None:
        return text
    curves = results.curves[results.curves.warmup == 0]
    update = int(curves.step.max())
    loss = at_update(curves, update)
    gap = paired(loss.adam, loss.laprop)
    scale = REDUCED.get(results.scale, "").lower()
    text += f"; {scale}at update {update:,} our Adam is {gap:.2f} bits above LaProp"
    if results.scale == "short":
        theirs = authors_at(update)
        text += f", and theirs {theirs.adam - theirs.laprop:.2f}"
    return text


def aside() -> str:
    """What the README adds to the finding."""
    runs = _last_losses(warmup=True)
    return f"; with warmup theirs end at {runs.adam:.2f} and {runs.laprop:.2f}"


def _last_losses(warmup: bool) -> pd.Series:
    """The loss at the end of the authors' runs of IWSLT14, by optimizer."""
    ends = make_authors.load("ends").query("task == 'iwslt'")
    return ends[(ends.warmup > 0) == warmup].set_index("optimizer").last_loss


def draw(results: Results | None) -> Figure:
    """A panel for each training, ours below if at a reduced scale; ``results`` is IWSLT14's."""
    ours = {"iwslt": results, "roberta": load("fig10")}
    below = any(r is not None and r.scale != "paper" for r in ours.values())
    size = (9.4, 5.6 if below else 3.2)
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
            if task == "iwslt" and run.scale == "short":  # the authors' setting, so they are beside
                first = make_authors.load("starts")
                alike = (first.warmup > 0).isin(set(curves.warmup > 0))
                means(column[1], first[alike & (first["update"] <= curves.step.max())])
        if below and run.scale == "paper":
            blank(column[1], "ours above")
    rows[0, 0].set_ylabel(f"training loss, bits\n{AUTHORS}")
    if below:
        rows[1, 0].set_ylabel("training loss, bits\nours")
    legend(figure)
    note(figure, list(ours.values()), "70 (IWSLT14) and 6 (RoBERTa)")
    return figure


def panel(axis: Axes, theirs: pd.DataFrame) -> None:
    """The authors' curves: a line for each optimizer and warmup."""
    for (optimizer, warmup), curve in theirs.groupby(["optimizer", "warmup"]):
        axis.plot(curve["update"], curve.loss, **look(optimizer, warmup) | {"linewidth": 1})


def means(axis: Axes, theirs: pd.DataFrame) -> None:
    """The authors' mean loss of every WINDOW updates, as a dotted line over these updates."""
    for optimizer, rows in theirs.groupby("optimizer"):
        begin = rows["update"] - make_authors.WINDOW
        colour = style.COLOUR[str(optimizer)]
        axis.hlines(rows.loss, begin, rows["update"], color=colour, linestyle=":", linewidth=1.4)


def own(axis: Axes, curves: pd.DataFrame, sigma: float) -> None:
    """Our curves, smoothed: the mean over seeds, and the range of the seeds."""
    for (optimizer, warmup), arm in curves.groupby(["optimizer", "warmup"]):
        seeds = arm.pivot(index="step", columns="seed", values="train_loss")
        style.smoothed(axis, seeds, sigma, alpha=0.15, **look(optimizer, warmup))


def blank(axis: Axes, text: str) -> None:
    """A panel that only says why it is empty."""
    axis.set_axis_off()
    axis.text(0.5, 0.5, text, ha="center", transform=axis.transAxes, color="#666666")


def look(optimizer: str, warmup: float) -> dict[str, Any]:
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
        [NAMES[o] + names[w] for o in ("adam", "laprop") for w in names],
        loc="outside upper center",
        ncols=4,
    )


def note(figure: Figure, ours: list[Results | None], smoothed: str) -> None:
    """The note below the figure, which says what the lines are and how they are smoothed."""
    text = f"authors' runs as published, smoothed by a Gaussian of {smoothed} updates"
    shown = [results for results in ours if results is not None]
    text += "; ours: mean, bands: range of the seeds" if shown else "; ours: not run"
    if any(r.manifest["task"] == "translation" and r.scale == "short" for r in shown):
        text += f"; dotted beside ours: the authors' means of {make_authors.WINDOW} updates"
    for results in shown:
        name = {"translation": "IWSLT14", "roberta": "RoBERTa"}[results.manifest["task"]]
        text += f"\nour {name}, {results.label}"
        if results.scale != "paper":
            text += f", smoothed by a Gaussian of {SIGMA} updates"
    style.below(figure, text)


# Claims -------------------------------------------------------------------------------------------


def at_update(curves: pd.DataFrame, update: int) -> pd.DataFrame:
    """Mean loss of the WINDOW updates up to one: a row for each seed, a column for each optimizer.

    A run that diverged before that update has no number.
    """
    window = curves[(curves.step > update - make_authors.WINDOW) & (curves.step <= update)]
    loss = window.groupby(["seed", "optimizer"]).train_loss.mean().unstack("optimizer")
    return loss.reindex(index=sorted(set(curves.seed)), columns=sorted(set(curves.optimizer)))


def iwslt_stuck(results: Results, optimizer: str, stuck: bool) -> Measured:
    """Whether the loss without warmup is above the line below which a training is not stuck.

    Where the runs with warmup, or in their setting the authors' LaProp, are above it at that update
    too, the runs are too short to tell.
    """
    line = results.runs.unigram_loss.mean() - MARGIN
    update = min(JUDGED_AT, int(results.curves.step.max()))
    arms: dict[bool, Estimate] = {}
    for warm, curves in results.curves.groupby(results.curves.warmup > 0):
        found = at_update(curves, update)
        arms[bool(warm)] = mean(found[optimizer].fillna(line + MARGIN))
    here = arms[False]
    held = decide(here.above(line), here.below(line))
    held = held if stuck or held is None else not held
    text = f"mean loss of the {make_authors.WINDOW} updates up to {update:,}, bits: "
    text += f"{NAMES[optimizer]} {here:.2f}"
    too_short = ""  # who else is above the line, so that nothing can be told
    if True in arms:
        text += f", with warmup {arms[True]:.2f}"
        if decide(arms[True].above(line), arms[True].below(line)):
            too_short = "The runs with warmup are"
    if results.scale != "small":
        theirs = authors_at(update)
        text += f", authors' {NAMES[optimizer]} {theirs[optimizer]:.2f}"
        if theirs.laprop > line:
            text += f", their LaProp {theirs.laprop:.2f}" * (optimizer != "laprop")
            too_short = "The authors' LaProp is"
    text += f"; stuck above {line:.2f}"
    if too_short:
        held = None
        text += f". {too_short} also above this line, so {update:,} updates are too few"
    return Measured(
        text,
        held,
        f"{abs(here.centre - line):.2f} bits {'above' if here.centre > line else 'below'} the line",
    )


def authors_at(update: int) -> pd.Series:
    """The loss of the authors' runs without warmup, as that of ours in :func:`at_update`.

    Returns:
        bits by optimizer, of the last WINDOW updates that end at or before ``update``.
    """
    runs = make_authors.load("starts").query("warmup == 0")
    table = runs.pivot(index="update", columns="optimizer", values="loss")
    return table.loc[: max(update, make_authors.WINDOW)].iloc[-1]


def iwslt_lower(results: Results, update: int) -> Measured | None:
    """Whether LaProp's loss without warmup is below Adam's at an update that the runs reach."""
    curves = results.curves[results.curves.warmup == 0]
    if curves.step.max() < update:
        return None
    loss = at_update(curves, update)
    gap = paired(loss.adam, loss.laprop)
    theirs = authors_at(update)
    higher = difference(gap)
    window = f"mean loss of the {make_authors.WINDOW} updates up to {update:,}"
    return Measured(
        f"{window}, Adam minus LaProp, bits: {higher}",
        every_above([gap]),
        f"Adam minus LaProp: {gap.centre:+.2f} bits, in the authors' runs "
        f"{theirs.adam - theirs.laprop:+.2f}",
        [higher],
    )


def iwslt_logs_end() -> Measured:
    """The mean loss of the last 1,000 updates of the authors' runs without warmup."""
    ends = make_authors.load("ends")
    runs = ends[(ends.task == "iwslt") & (ends.warmup == 0)].set_index("optimizer").last_loss
    apart = _apart("iwslt", 0.98, 0)
    return Measured(
        f"mean loss of the last 1,000 of 60,000 updates, bits: Adam {runs.adam:.2f}, LaProp "
        f"{runs.laprop:.2f}; from update {apart.below_best_from:,.0f} on LaProp's smoothed loss is "
        f"below the lowest that Adam's ever gets, {apart.adam_lowest:.2f}",
        bool(runs.laprop < runs.adam),
        f"Adam minus LaProp: {runs.adam - runs.laprop:+.2f} bits",
    )


def _apart(task: str, nu: float, warmup: int) -> pd.Series:
    """By how much LaProp's smoothed curve is below Adam's in the authors' runs of one setting."""
    table = make_authors.load("apart").set_index(["task", "nu", "warmup"])
    return table.loc[(task, nu, warmup)]


# Discrepancies ------------------------------------------------------------------------------------


def iwslt_loss(results: Results) -> str:
    """Training loss of both optimizers at the end of our runs, with and without warmup."""
    text, update = [], int(results.curves.step.max())
    for warmup, curves in results.curves.groupby("warmup"):
        loss = at_update(curves, update)
        ends = ", ".join(f"{NAMES[str(o)]} {mean(loss[o]):.2f}" for o in loss)
        text.append(f"{'with' if warmup else 'without'} warmup {ends}")
    window = f"mean loss of the {make_authors.WINDOW} updates up to {update:,}"
    return f"{window}, bits: {'; '.join(text)}"
