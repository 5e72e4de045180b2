"""What each discrepancy about the optimizer does to a training path, by schedule of lr."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import mean
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
    by_run = results.runs.groupby(["updates", "pair", "schedule"]).difference.mean()
    size = by_run.groupby(["pair", "updates"]).max().unstack("updates")
    furthest, control = size.drop(["other_batches", "last_bit"]).max(), size.loc["other_batches"]
    after = [f"{100 * furthest[n]:.0f} % after {n:,}" for n in size]
    return (
        f"A discrepancy of paper and code moves the path by at most {' and '.join(after)} updates, "
        f"other minibatches by {' and '.join(f'{100 * control[n]:.0f} %' for n in size)}"
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
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(SCHEDULE))
    style.provenance(
        figure,
        results,
        "small ReLU net on MNIST; mean over seeds, 95 % intervals (one that reaches the left edge "
        "contains 0); grey: control with other minibatches",
    )
    return figure


def _panel(axis: plt.Axes, runs: pd.DataFrame) -> None:
    for i, (schedule, (colour, marker)) in enumerate(SCHEDULE.items()):
        chosen = runs[runs.schedule == schedule].groupby("pair").difference
        found = [mean(chosen.get_group(p)) for p in PAIR]
        middle, low, high = np.transpose([(e.centre, e.low, e.high) for e in found]).clip(FLOOR)
        axis.errorbar(
            middle,
            np.arange(len(PAIR)) + 0.15 * (i - 2),
            xerr=(middle - low, high - middle),
            fmt=marker,
            color=colour,
            markersize=3.6,
            elinewidth=1,
            label=schedule,
        )
    control = runs[runs.pair == "other_batches"].groupby("schedule").difference.mean()
    axis.axvspan(control.min(), control.max(), color="#E8E8E8", zorder=0)
    axis.set(xscale="log", xlim=(FLOOR / 2, 2))
    ticks = [FLOOR, 1e-6, 1e-4, 1e-2, 1]
    axis.set_xticks(ticks, ["0", "0.0001 %", "0.01 %", "1 %", "100 %"])
    axis.minorticks_off()
    axis.grid(axis="y", visible=False)
    for row in range(len(PAIR) - 1):
        axis.axhline(row + 0.5, color="#EEEEEE", linewidth=0.6, zorder=0)
