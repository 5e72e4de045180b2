"""Benchmarks: the optimizer's step against other implementations, and its temporary memory."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.records import Results
from scripts.figures import style

COLUMNS = 4
LEFT = 0.12  # where the axes of times begin
STREAM = "the reads and writes alone"  # the table's `stream`
TITLES = {
    "10M": "one tensor of 10M",
    "ResNet-20": "ResNet-20, 59 tensors, 0.27M",
    "transformer": "transformer, 73 tensors, 39M",
    "300 small": "300 tensors of 64",
    "come and go": "300, 1 in 7 without a gradient",
    "one strided": "300, one with gaps in memory",
}


def finding(results: Results) -> str:
    """The title."""
    rows = results.table("optimizer")
    one = rows[rows.threads == 1].set_index("way").times_fused_adam
    peers = [way for way in one.index if "LaProp" in way and not way.startswith("LaProp")]
    fused, clipped, plain, others = (
        f"{one[ways].min():.2g} to {one[ways].max():.2g}"
        for ways in (
            ["LaProp, fused"],
            ["LaProp, fused, clipped"],
            ["LaProp, foreach", "LaProp, for-loop"],
            peers,
        )
    )
    return (
        f"A fused step of LaProp takes {fused} times as long as torch's fused Adam's ({clipped} "
        f"with clipping), its foreach and for-loop steps {plain}, other packages' LaProps {others} "
        "(one thread)"
    )


def draw(results: Results) -> Figure:
    """A panel per set of tensors, a row per implementation; last, temporary memory."""
    rows = results.table("optimizer")
    ways = _order(list(dict.fromkeys(rows.way)))
    problems = [problem for problem in TITLES if problem in set(rows.problem)]
    columns = min(len(problems) + 1, COLUMNS)
    lines = -(-(len(problems) + 1) // columns)
    size = (2.75 * columns, 0.2 + (0.6 + 0.19 * len(ways)) * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False)
    axes = [*grid.flat][: len(problems) + 1]
    for axis in grid.flat[len(axes) :]:
        axis.set_axis_off()
    for axis, problem in zip(axes, problems, strict=False):
        _times(axis, rows[rows.problem == problem], ways)
        axis.set_title(TITLES[problem], fontsize=8.5)
    axes[0].set_yticks(range(len(ways)), [STREAM if way == "stream" else way for way in ways])
    axes[0].invert_yaxis()
    style.legend(figure, axes[0], 2)
    memory = rows[(rows.problem == "10M") & (rows.threads == 1)].set_index("way")
    copies = (memory.temporary_bytes / (4 * memory.numbers)).reindex(ways)
    bars = axes[-1].barh(
        range(len(ways)), copies, height=0.55, color=[_colour(way) for way in ways]
    )
    labels = ["" if np.isnan(copied) else f"{copied:.1f}" for copied in copies]
    axes[-1].set_axisbelow(True)  # the grid
    axes[-1].bar_label(bars, labels, fontsize=6.5, padding=2)
    axes[-1].set(title="temporary memory", xlabel="copies of the tensor of 10M", xlim=(0, 5.9))
    where = rows.iloc[0]
    style.below(
        figure,
        f"{where.cpu}, torch {where.torch}, float32; the implementations take turns; marks are "
        "medians, bars quartiles",
    )
    return figure


def _order(ways: list[str]) -> list[str]:
    """Our step with clipping beside the one without it."""
    plain, clipped = "LaProp, fused", "LaProp, fused, clipped"
    if not {plain, clipped} <= set(ways):
        return ways
    others = [way for way in ways if way != clipped]
    place = others.index(plain) + 1
    return [*others[:place], clipped, *others[place:]]


def _colour(way: str) -> str:
    if "LaProp" in way or "Dreamer" in way:  # torchrl's is LaProp under another name
        return style.COLOUR["laprop"] if way.startswith("LaProp") else style.OTHER[1]
    return style.COLOUR["adam"] if "Adam" in way else "#777777"


def _times(axis: Axes, rows: pd.DataFrame, ways: list[str]) -> None:
    """Time over that of torch's fused Adam on as many threads; hollow points: all threads."""
    every = sorted(rows.threads.unique())
    for threads, cell in rows.groupby("threads"):
        table = cell.set_index("way").reindex(ways)
        scale = table.times_fused_adam / table.milliseconds
        shift = 0.0 if len(every) == 1 else 0.15 * (1 if threads == every[-1] else -1)
        for place, way in enumerate(ways):
            ratio = table.times_fused_adam[way]
            if not ratio > LEFT:  # not measured, or so far to the left that its place says nothing
                text = table.note[way] if np.isnan(ratio) else f"{ratio:.1g}"
                if threads == every[0]:
                    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                    axis.text(1.1 * LEFT, place, text, fontsize=6.5, va="center", bbox=white)
                continue
            low, high = (scale[way] * table[end][way] for end in ("q25", "q75"))
            axis.errorbar(
                ratio,
                place + shift,
                xerr=[[ratio - low], [high - ratio]],
                marker="o",
                markersize=4,
                color=_colour(way),
                markerfacecolor=_colour(way) if threads == every[0] else "white",
                linewidth=1,
            )
    for threads in every:
        axis.plot(
            [],
            [],
            "o",
            color="#444444",
            markersize=4,
            markerfacecolor="#444444" if threads == every[0] else "white",
            label="1 thread" if threads == 1 else f"{threads} threads",
        )
    axis.axvline(1, color="#444444", linewidth=0.8)
    axis.set(xscale="log", xlim=(LEFT, 17), xlabel="time / torch's fused Adam")
    axis.set_xticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    axis.minorticks_off()
