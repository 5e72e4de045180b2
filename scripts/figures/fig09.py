"""Figure 9, appendix C.3: neural style transfer at other learning rates."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Results
from experiments.common.stats import Estimate, decide, every_above, holm
from scripts.effects import percent
from scripts.figures import style
from scripts.figures.fig03 import BLACK, FIRST, note, over_starts, regret
from scripts.paper import NAMES, OPTIMIZERS, Measured


def finding(results: Results) -> str:
    """The title."""
    text: list[str] = []
    every = _counts(results)
    for optimizer, by_lr in gaps(results).items():
        counts = {lr: every[optimizer, lr] for lr in by_lr}
        if len(by_lr) > 2:
            above, below = (list(counts.values()).count(held) for held in (True, False))
            rates = f" of {len(by_lr)} learning rates" * (not text)
            text.append(f"{NAMES[optimizer]}'s is above it at {above}{rates}, below at {below}")
            continue
        words = [
            f"{abs(percent(gap)[0]):.0f} % {'above' if gap.centre >= 0 else 'below'} "
            f"at lr {lr:g}" + " (undecided)" * (counts[lr] is None)
            for lr, gap in by_lr.items()
        ]
        told = ", ".join(words)
        if len(words) == 2 and told.count(" (undecided)") == 2:
            told = told.replace(" (undecided)", "") + " (both undecided)"
        text.append(f"{NAMES[optimizer]}'s {told}")
    return f"Style transfer, lowest regret against LaProp's: {'; '.join(text)}"


def _counts(results: Results) -> dict[tuple[str, float], bool | None]:
    """Whether each regret counts as above LaProp's, as below it, or as neither, as in the verdict.

    One below LaProp's counts only after Holm's correction for all comparisons.
    """
    every = {(o, lr): gap for o, by_lr in gaps(results).items() for lr, gap in by_lr.items()}
    below = holm([gap.below() for gap in every.values()])
    return {key: decide(every[key].above(), p) for key, p in zip(every, below, strict=True)}


def note_on_undecided(results: Results) -> str:
    """What "undecided" means in the title, and which difference is so only by Holm's correction."""
    counts = _counts(results)
    text = (
        "; undecided: the interval contains 0, or the regret is below LaProp's and is not clearly "
        f"so after Holm's correction for {len(counts)} comparisons"
    )
    for optimizer, by_lr in gaps(results).items():
        for lr, gap in by_lr.items():
            if gap.high < 0 and counts[optimizer, lr] is None:
                text += (
                    f"; without this correction {NAMES[optimizer]}'s would be clearly below "
                    f"at lr {lr:g}"
                )
    return text


def draw(results: Results) -> Figure:
    """Per learning rate the regret against nu, and the first updates at the best nu of each."""
    rates = sorted(results.runs.lr.unique())
    figure, axes = plt.subplots(2, len(rates), figsize=(4.2 * len(rates) + 0.8, 5.4), squeeze=False)
    black = results.curves[results.curves.seed == BLACK]
    for column, rate in enumerate(rates):
        runs = results.runs[results.runs.lr == rate]
        regret(axes[0, column], runs)
        axes[0, column].set_title(f"lr {rate:g}")
        axis = axes[1, column]
        for optimizer, cell in runs[runs.seed == BLACK].groupby("optimizer", sort=False):
            best = cell.loc[cell.regret.idxmin()]
            curve = black[
                (black.optimizer == optimizer)
                & (black.lr == rate)
                & ((black.nu == best.nu) | np.isnan(best.nu))
                & (black.step <= FIRST)
            ]
            look = style.line(str(optimizer)) | {"linewidth": 1}
            look["label"] += "" if np.isnan(best.nu) else f", ν {best.nu:g}"
            axis.plot(curve.step, curve.loss, **look)
        axis.set(yscale="log", xlabel="updates", xlim=(0, FIRST))
        style.plain(axis.yaxis)
        axis.legend(title="at the best ν", fontsize=7, title_fontsize=7)
    axes[0, 0].set_ylabel("mean loss of all updates, R(T)/T")
    axes[1, 0].set_ylabel("loss")
    style.legend(figure, axes[0, 0], 3)
    style.provenance(figure, results, note(results, "µ 0.9") + note_on_undecided(results))
    return figure


# Claims -------------------------------------------------------------------------------------------


def lowest(results: Results) -> dict[float, pd.DataFrame]:
    """For each lr the lowest regret over nu: a row for each start, a column for each optimizer."""
    runs = results.runs[results.runs.optimizer.isin(OPTIMIZERS)]
    table = runs.groupby(["lr", "seed", "optimizer"]).regret.min().unstack("optimizer")
    return {float(lr): rows.droplevel("lr") for lr, rows in table.groupby("lr")}


def gaps(results: Results) -> dict[str, dict[float, Estimate]]:
    """For Adam and AMSGrad, by lr, the logarithm of its lowest regret over LaProp's."""
    cells = lowest(results).items()
    return {
        o: {lr: over_starts(best[o], best.laprop) for lr, best in cells}
        for o in ("adam", "amsgrad")
    }


def style_every_lr(results: Results) -> Measured:
    """Whether LaProp's lowest regret over nu is below both others' at every learning rate."""
    text, won = [], 0
    for lr, best in lowest(results).items():
        runs = results.runs[results.runs.lr == lr]
        at = runs.loc[runs.groupby("optimizer").regret.idxmin()].set_index("optimizer").nu
        cells = [f"{NAMES[o]} {best[o].mean():.4g} at ν {at[o]:g}" for o in sorted(best)]
        text.append(f"lr {lr:g}: {', '.join(cells)}")
        won += best.mean().idxmin() == "laprop"
    every = [gap for by_lr in gaps(results).values() for gap in by_lr.values()]
    return Measured(f"lowest regret over ν: {'; '.join(text)}", every_above(every),
                    f"LaProp's is the lowest at {won} of {len(text)} learning rates; the claim "
                    "needs all")  # fmt: skip
