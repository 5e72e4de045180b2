"""What each discrepancy about the optimizer does to a training path, by schedule of lr."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import ALPHA, Estimate, interval, mean
from scripts.effects import Change
from scripts.figures import style

PAIR = {
    "other_batches": "control: other minibatches",
    "last_bit": "control: last bit of the start",
    "printed_correction": "Algorithm 2: momentum over 1 − µᵗ",
    "algorithm_1": "Algorithm 1: lr outside the momentum",
    "moves_at_zero_lr": "moves at lr = 0",
    "eps_in_sqrt": "ε = 1e-15 under the root",
    "eps_in_sqrt_adam": "ε = 1e-8 under the root",
    "eps_first": "ε = 1e-15 before the correction",
    "eps_first_adam": "ε = 1e-8 before the correction",
    "decay_by_lr": "decay w·lr in place of w = 1e-4",
    "decay_scheduled": "decay w = 1e-4 follows the schedule",
    "decay_first": "decay w = 1e-4 before the step",
    "centered_at_5": "centered after 5 steps, not 10",
    "centered_at_once": "centered at once, not after 10",
    "adam_decay": "Adam: decay w·lr in place of w = 1e-4",
}
SCHEDULE = {
    "constant": (style.OTHER[0], "o"),
    "warmup": (style.OTHER[2], "v"),
    "cosine": (style.OTHER[1], "s"),
    "drop": (style.OTHER[3], "^"),
    "pause": (style.OTHER[4], "D"),
}
FLOOR = 1e-8  # a difference of exactly 0 is drawn here


def finding(results: Results) -> str:
    """The title."""
    after, control = [], []
    for updates, runs in results.runs.groupby("updates"):
        means = {
            str(pair): max(
                _by_schedule(cell, cell.difference).values(), key=lambda found: found.centre
            )
            for pair, cell in runs.groupby("pair")
        }
        control.append(f"{means.pop('other_batches').centre:.0f} %")
        del means["last_bit"]
        most = max(means.values(), key=lambda found: found.centre)
        number = f"{most.centre:.0f} {interval(max(most.low, 0), most.high, '.0f')} %"
        after.append(f"{number} after {updates:,}")
    return (
        "The discrepancy of paper and code that moves the path most moves it by "
        f"{' and '.join(after)} updates, other minibatches by {' and '.join(control)}"
    )


def draw(results: Results) -> Figure:
    """A row per discrepancy, a column per number of updates."""
    lengths = sorted(results.runs.updates.unique())
    figure, axes = plt.subplots(1, len(lengths), figsize=(9.6, 5.8), sharex=True, sharey=True)
    for axis, updates in zip(axes, lengths, strict=True):
        _panel(axis, results.runs[results.runs.updates == updates])
        axis.set_title(f"{updates:,} updates")
        axis.set_xlabel("distance of the two paths /\nthe default's distance from its start")
    axes[0].set_yticks(range(len(PAIR)), list(PAIR.values()))
    axes[0].set_ylim(len(PAIR) - 0.5, -0.5)
    style.legend(figure, axes[0], len(SCHEDULE))
    style.provenance(
        figure,
        results,
        "small ReLU net on MNIST; mean over seeds, 95 % intervals (one that reaches the left edge "
        "contains 0), in the title for all schedules together; grey: control with other "
        "minibatches",
    )
    return figure


def _panel(axis: Axes, runs: pd.DataFrame) -> None:
    for i, (schedule, (colour, marker)) in enumerate(SCHEDULE.items()):
        chosen = runs[runs.schedule == schedule].groupby("pair").difference
        found = style.intervals(mean(chosen.get_group(p)) for p in PAIR).clip(FLOOR)
        places = np.arange(len(PAIR)) + 0.15 * (i - 2)
        look = {"fmt": marker, "markersize": 3.6, "elinewidth": 1, "color": colour}
        style.errorbars(axis, places, found, across=True, label=schedule, **look)
    control = runs[runs.pair == "other_batches"].groupby("schedule").difference.mean()
    axis.axvspan(control.min(), control.max(), color="#E8E8E8", zorder=0)
    axis.set(xscale="log", xlim=(FLOOR / 2, 2))
    ticks = [FLOOR, 1e-6, 1e-4, 1e-2, 1]
    axis.set_xticks(ticks, ["0", "0.0001 %", "0.01 %", "1 %", "100 %"])
    axis.minorticks_off()
    axis.grid(axis="y", visible=False)
    for row in range(len(PAIR) - 1):
        axis.axhline(row + 0.5, color="#EEEEEE", linewidth=0.6, zorder=0)


# Discrepancies ------------------------------------------------------------------------------------


def _by_schedule(runs: pd.DataFrame, shares: pd.Series) -> dict[str, Estimate]:
    """The mean over seeds in per cent under each schedule, with simultaneous intervals."""
    groups = (100 * shares).groupby(runs.schedule)
    return {str(name): mean(seeds, ALPHA / groups.ngroups) for name, seeds in groups}


def _largest(means: dict[str, Estimate], sign: str = "", least: float = -np.inf) -> tuple[str, str]:
    """The largest mean in absolute value with its interval, and its schedule, as text.

    Args:
        means: of each schedule, in per cent.
        sign: "+" to print the signs.
        least: the smallest number that is possible, at which intervals are cut.
    """
    schedule, found = max(means.items(), key=lambda item: abs(item[1].centre))
    ends = np.array([found.centre, max(found.low, least), found.high])
    if not (largest := np.nanmax(np.abs(ends))) >= 0.001:
        return "below 0.001 %" if largest else "0", schedule
    spec = f"{sign}.2g"
    return f"{ends[0]:{spec}} {interval(ends[1], ends[2], spec)} %", schedule


def _pair(results: Results, pair: str) -> str:
    """The largest distance of two paths over the schedules, and the largest change of the loss."""
    both = results.runs[results.runs.pair.isin([pair, "last_bit"])]
    runs, distance, loss = both[both.pair == pair], [], []
    for updates, cell in both.groupby("updates"):
        own, control = cell[cell.pair == pair], cell[cell.pair == "last_bit"]
        means = _by_schedule(own, own.difference)
        limits = _by_schedule(control, control.difference)
        lowest = pd.Series([found.low for found in means.values()])  # NaN without an interval
        above = lowest.max() > pd.Series([found.high for found in limits.values()]).max()
        number, name = _largest(means, least=0)
        mark = "" if above or pair == "last_bit" else "; not above the control"
        distance.append(f"{number} after {updates:,} ({name}{mark})")
        number, name = _largest(_by_schedule(own, own.loss_difference / own.loss), "+")
        loss.append(f"{number} after {updates:,} ({name})")
    if runs[runs.schedule == "constant"].difference.max() == 0:
        distance.append("0 at a constant lr")
    return f"distance {', '.join(distance)}; loss {', '.join(loss)}"


def pairs(results: Results, pairs: dict[str, str]) -> str:
    """For each pair its label, the distance of its paths, and the change of the loss."""
    text = {label: _pair(results, pair) for label, pair in pairs.items()}
    return "; ".join(f"{label}: {found}" if label else found for label, found in text.items())


def row_changes(results: Results, pairs: dict[str, str]) -> list[Change]:
    """The change of the loss after the most updates, under the schedule that changes it most."""
    most, found = results.runs.updates.max(), []
    for label, pair in pairs.items():
        runs = results.runs[(results.runs.pair == pair) & (results.runs.updates == most)]
        means = _by_schedule(runs, runs.loss_difference / runs.loss)
        schedule = max(means, key=lambda name: abs(means[name].centre))
        number = f"training loss after {most:,} updates ({schedule}{f'; {label}' if label else ''})"
        found.append(Change.of(number, means[schedule]))
    return found


def controls(results: Results) -> str:
    """The two controls in a line each: other minibatches, and weights changed in the last bit."""
    batches, bit = _pair(results, "other_batches"), _pair(results, "last_bit")
    return f"- on other minibatches: {batches}\n- from weights changed in the last bit: {bit}"


def moves_at_zero_lr(results: Results, pairs: dict[str, str]) -> str:
    """The effect of the one pair, and the largest move of a weight in a step with lr = 0.

    Each run has recorded its largest such move.
    """
    (pair,) = pairs.values()
    runs = results.runs[results.runs.pair == pair]
    lr = results.manifest["settings"]["optimizer.lr"]
    moved = runs[runs.schedule == "pause"].groupby("updates").zero_lr_step
    text = "; ".join(
        f"{steps.mean():.2g} on average over seeds ({steps.mean() / lr:.1f} times the lr before "
        f"it), at most {steps.max():.2g}, in {n:,} updates"
        for n, steps in moved
    )
    return f"{_pair(results, pair)}; the largest step of a weight at lr 0 is {text}"
