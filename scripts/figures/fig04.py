"""Figure 4, section 5.3: training of very deep fully connected nets on MNIST, and who learns.

A seed has learned where the last record of its training loss, the mean over ``task.log_every``
minibatches, is below nine tenths of log 10, the loss of guessing.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import (
    ROUNDING,
    Estimate,
    decide,
    every_above,
    log_ratio,
    mean,
    median,
    share_above,
)
from scripts.effects import difference, ratio
from scripts.figures import style
from scripts.paper import NAMES, OPTIMIZERS, Measured

GUESSING = float(np.log(10))
LEARNED_BELOW = 0.9 * GUESSING
ABOVE = 1e-4  # the learning rate above which, as the paper says, no deep net learns (5.3)


def finding(results: Results) -> str:
    """The title."""
    found = deep_faster(results)
    whole, rest = found.effects
    undecided = " (undecided)" * (found.held is None)
    depth, lr = most_apart(results)
    seeds = results.runs.seed.nunique()
    laprop, adam = (round(seeds * shares(results)[o, depth, lr]) for o in ("laprop", "adam"))
    return (
        f"Deep nets: mean training loss, Adam minus LaProp: {whole}{undecided}; without {depth} "
        f"layers at lr {style.short(lr)}, where LaProp learns in {laprop} and Adam in {adam} of "
        f"{seeds} seeds: {rest}"
    )


def draw(results: Results) -> Figure:
    """Above, curves at the two most contested rates; below, depth by lr, the share that learns."""
    curves = results.curves
    optimizers = [o for o in OPTIMIZERS if o in set(curves.optimizer)]
    depths = sorted(curves.depth.unique())
    figure = plt.figure(figsize=(2.1 * len(depths) + 0.8, 6.6))
    above, below = figure.subfigures(2, 1, height_ratios=[1.7, 1], squeeze=False).flat
    rates = contested(results)
    shown = curves[np.isclose(curves.lr.to_numpy()[:, None], rates, atol=0).any(1)]
    panels = above.subplots(len(rates), len(depths), sharex=True, sharey=True, squeeze=False)
    for row, lr in zip(panels, rates, strict=True):
        for axis, depth in zip(row, depths, strict=True):
            cell = curves[(curves.depth == depth) & np.isclose(curves.lr, lr, atol=0)]
            for optimizer in optimizers:
                seeds = cell[cell.optimizer == optimizer].pivot(
                    index="step", columns="seed", values="train_loss"
                )
                colour = style.COLOUR[optimizer]
                axis.plot(seeds.index, seeds, color=colour, linewidth=0.4, alpha=0.4)
                middle = [median(values)[0] for values in seeds.to_numpy()]
                axis.plot(seeds.index, middle, **style.line(optimizer))
            axis.axhline(GUESSING, color="#999999", linewidth=0.8, linestyle=":")
            axis.set(yscale="log", ylim=(0.8 * shown.train_loss.min(), 2 * GUESSING))
            style.plain(axis.yaxis)
        row[0].set_ylabel(f"training loss\nlr {style.short(lr)}")
    for axis, depth in zip(panels[0], depths, strict=True):
        axis.set_title(f"{depth} hidden layers")
    for axis in panels[-1]:
        axis.set_xlabel("updates")
    style.legend(above, panels[0, 0], 3)

    share = shares(results)
    maps = below.subplots(1, len(optimizers), sharey=True)
    for axis, optimizer in zip(maps, optimizers, strict=True):
        table = share[optimizer].unstack("depth")
        image = axis.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower")
        axis.grid(False)
        axis.set(title=NAMES[optimizer], xlabel="hidden layers")
        axis.set_xticks(range(len(table.columns)), table.columns)
        axis.set_yticks(range(len(table.index)), [style.short(lr) for lr in table.index])
        if optimizer != "amsgrad":  # of which the paper says nothing here
            edge = np.searchsorted(table.index, ABOVE * (1 + 1e-9)) - 0.5
            deepest = 1 - 1 / len(table.columns)  # where its column begins, as a share
            style.paper(axis, "none\nlearns above", y=edge, start=deepest)
    maps[0].set_ylabel("learning rate")
    below.colorbar(image, ax=maps, label="share of seeds that learn", ticks=[0, 0.5, 1])
    note = (
        f"learns: final training loss below {LEARNED_BELOW:.2f}, nine tenths of guessing; "
        "dotted: guessing; thick: median, thin: seeds; white in the maps: not run"
    )
    style.provenance(figure, results, note)
    return figure


def first_runs(results: Results) -> list[str]:
    """What the runs of unfinished seeds show: a line for each depth and seed."""
    runs = results.every_run
    cells = []
    for (depth, seed), cell in runs.groupby(["depth", "seed"]):
        losses = [
            f"{NAMES[str(o)]} "
            + ", ".join(f"{run.final_loss:.3f} at lr {run.lr:g}" for run in nets.itertuples())
            for o, nets in cell.groupby("optimizer")
        ]
        cells.append(f"depth {depth}, seed {seed}: final loss of {'; of '.join(losses)}")
    return cells


def so_far(results: Results) -> str:
    """What the runs of unfinished seeds show, as the end of a sentence."""
    pairs = results.every_run.pivot(
        index=["depth", "lr", "seed"], columns="optimizer", values="final_loss"
    ).dropna()
    learning = (pairs < LEARNED_BELOW).any(axis=1)
    lower = pairs.laprop < pairs.adam
    parts = []
    for depth, learns in learning.groupby("depth"):
        part = f"in {lower[learns.index][learns].sum()} of {learns.sum()} pairs at depth {depth}"
        idle = (~learns).sum()
        parts.append(part + (f" (in {idle} more neither learns)" if idle else ""))
    return f"LaProp ends lower than Adam {', '.join(parts)}"


def contested(results: Results) -> list[float]:
    """The two learning rates at which the shares of LaProp and Adam differ most, larger first."""
    share = shares(results)
    gap = (share["laprop"] - share["adam"]).abs().groupby("lr").sum()
    return sorted(gap.sort_values(kind="stable").index[-2:], reverse=True)


# Claims -------------------------------------------------------------------------------------------


def shares(results: Results) -> pd.Series:
    """Share of the seeds that learned, for each optimizer, depth and lr."""
    runs = results.runs
    learned = runs.final_loss < LEARNED_BELOW
    return learned.groupby([runs.optimizer, runs.depth, runs.lr]).mean()


def deep_nothing_above(results: Results) -> Measured:
    """Whether neither Adam nor LaProp learns at the greatest depth and any lr above ABOVE."""
    runs = results.runs
    depth = runs.depth.max()
    chosen = runs[runs.optimizer.isin(["adam", "laprop"]) & (runs.depth == depth)]
    chosen = chosen[chosen.lr > ABOVE * (1 + 1e-9)]
    # A loss that was never a number counts as guessing.
    by_setting = chosen.final_loss.fillna(GUESSING).groupby([chosen.optimizer, chosen.lr])
    cells = {key: mean(loss) for key, loss in by_setting}
    held = every_above(cells.values(), LEARNED_BELOW)
    text = ", ".join(f"{NAMES[o]} at {lr:g} {cell:.2f}" for (o, lr), cell in cells.items())
    return Measured(
        f"final loss at depth {depth}: {text}; learned is below {LEARNED_BELOW:.2f}",
        held,
        _learning(chosen.assign(learned=chosen.final_loss < LEARNED_BELOW), cells),
    )


def _learning(runs: pd.DataFrame, cells: dict[tuple[str, float], Estimate]) -> str:
    """At which rates seeds learn: ``LaProp learns at lr 0.001 with 1 of 3 seeds``.

    Args:
        runs: with columns optimizer, lr, learned.
        cells: the mean of the final loss for each optimizer and lr.
    """
    text = []
    for optimizer, own in runs.groupby("optimizer"):
        parts = []
        for lr, seeds in own.groupby("lr").learned:
            sure = " (the whole interval)" * (cells[optimizer, lr].high < LEARNED_BELOW)
            if seeds.any():
                parts.append(f"at lr {lr:g} with {seeds.sum()} of {len(seeds)} seeds{sure}")
        if parts:
            text.append(f"{NAMES[optimizer]} learns {' and '.join(parts)}")
    return f"{'; '.join(text) or 'none learns above lr 1e-4'}; the claim allows none above lr 1e-4"


def largest_rates(results: Results, optimizer: str) -> pd.Series:
    """For each depth and seed the largest lr at which it learns.

    Where it learns at none, a tenth of the smallest lr that was tried is taken.
    """
    runs = results.runs[results.runs.optimizer == optimizer]
    learned = runs.lr.where(runs.final_loss < LEARNED_BELOW, results.runs.lr.min() / 10)
    return learned.groupby([runs.depth, runs.seed]).max()


def mean_rates(results: Results, optimizer: str) -> pd.Series:
    """For each depth the geometric mean over seeds of the largest lr at which it learns."""
    return np.exp(np.log(largest_rates(results, optimizer)).groupby("depth").mean())


def deep_larger_lr(results: Results) -> Measured:
    """Whether LaProp learns at larger lr: log of its largest lr minus that of Adam's.

    The depths of a seed are averaged, because they are a choice and no sample of depths.
    """
    rates = {o: np.log(largest_rates(results, o)) for o in ("laprop", "adam")}
    gap = mean((rates["laprop"] - rates["adam"]).groupby("seed").mean())
    held = every_above([gap])
    if np.isnan(gap.error):  # all seeds differ by the same, so a sign test decides
        larger, smaller = (sign * gap.centre > ROUNDING for sign in (1, -1))
        n = results.runs.seed.nunique()
        held = decide(float(share_above(n * larger, n)), float(share_above(n * smaller, n)))
    largest, times = np.log(results.runs.lr.max()), ratio(gap, ".2g")
    ends = [f"{NAMES[o]} {(np.isclose(r, largest)).mean():.0%}" for o, r in rates.items()]
    adam = mean_rates(results, "adam")
    tried = {depth: sorted(cell.unique()) for depth, cell in results.runs.groupby("depth").lr}
    text = "; ".join(
        f"depth {depth}: LaProp {laprop:.2g}, Adam {adam[depth]:.2g}, of "
        + ", ".join(f"{lr:g}" for lr in tried[depth])
        for depth, laprop in mean_rates(results, "laprop").items()
    )
    return Measured(
        f"largest lr at which a seed learns, geometric mean, {text}; LaProp's over Adam's, "
        f"averaged over depths: {times}; learns at the largest lr tried, of depths and seeds: "
        f"{', '.join(ends)}",
        held,
        f"LaProp's largest rate is {times.centre:.2g} times Adam's, among the rates tried; the "
        "claim needs more than 1",
        [times],
    )


def lower_loss(results: Results) -> pd.DataFrame:
    """Adam's mean loss over the training minus LaProp's: a row per depth and lr, a column per seed.

    Only rates at which LaProp or Adam learns are here. Losses above log 10 count as log 10, so that
    a few high values at the start do not decide.
    """
    share = shares(results)
    either = (share["laprop"] > 0.5) | (share["adam"] > 0.5)
    curves = results.curves
    loss = curves.train_loss.fillna(GUESSING).clip(upper=GUESSING)
    whole = loss.groupby([curves.optimizer, curves.depth, curves.lr, curves.seed]).mean()
    laprop, adam = (whole[o].unstack("seed")[either] for o in ("laprop", "adam"))
    return adam - laprop


def most_apart(results: Results) -> tuple[int, float]:
    """The depth and lr at which LaProp's loss is furthest below Adam's."""
    depth, lr = lower_loss(results).mean(axis=1).idxmax()
    return depth, lr


def deep_faster(results: Results) -> Measured:
    """Whether LaProp's mean loss over the training is lower, averaged over depths for each seed."""
    gaps = lower_loss(results)
    depth, lr = most_apart(results)
    higher, rest = (
        difference(mean(table.groupby("depth").mean().mean()), "+.3f")
        for table in (gaps, gaps.drop(index=(depth, lr)))
    )
    lower = int((gaps.mean(axis=1) > 0).sum())
    return Measured(
        f"mean training loss, Adam minus LaProp: {higher} over the {len(gaps)} settings at "
        f"which either learns; without the setting of the largest difference ({depth} layers, lr "
        f"{style.short(lr)}) {rest}",
        every_above([mean(gaps.groupby("depth").mean().mean())]),
        f"LaProp's loss is lower at {lower} of {len(gaps)} settings",
        [higher, rest],
    )


def deep_small_lr(results: Results, margin: float) -> Measured:
    """Whether the smallest lr gives a higher final loss than the best other one, at each depth.

    Where no other lr ends below LEARNED_BELOW, the smallest is not too small: it is the best.
    """
    runs = results.runs.assign(final_loss=results.runs.final_loss.fillna(GUESSING))
    cells, smallest = {}, runs.lr.min()
    idle = []
    for (optimizer, depth), cell in runs.groupby(["optimizer", "depth"]):
        if optimizer == "amsgrad":
            continue
        loss = cell.pivot(index="seed", columns="lr", values="final_loss")
        others = loss.drop(columns=smallest).mean()
        if others.min() < LEARNED_BELOW:
            cells[optimizer, depth] = log_ratio(loss[smallest], loss[others.idxmin()])
        else:
            idle.append(f"{NAMES[optimizer]} at depth {depth}")
    found = {cell: ratio(log) for cell, log in cells.items()}
    text = ", ".join(f"{NAMES[o]} at depth {depth} {r}" for (o, depth), r in found.items())
    left_out = f"; at no other lr {', '.join(idle)} ends below {LEARNED_BELOW:.2f}" if idle else ""
    least = np.exp(min((cell.centre for cell in cells.values()), default=np.nan))
    return Measured(
        f"final loss at lr {smallest:g} over that at the best other lr: {text}{left_out}",
        every_above(cells.values(), np.log(margin)) if cells else None,
        f"at the smallest lr the loss is at least {least:.2f} times as high; the claim needs "
        f"{margin:g}",
        [*found.values()],
    )
