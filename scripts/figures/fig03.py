"""Figure 3, section 5.2: style transfer: regret against nu, the first 120 updates, the pictures.

The paper starts at a black picture, once; this run has no randomness. Our other starts differ from
black by less than a grey level. An interval is over these noisy starts, and a comparison counts
only if the black start has the same sign: so it tells how much invisible noise changes the result,
and nothing about other pictures. For the black start alone the spread is taken from earlier runs.
A small nu is above 0 and at most 0.4, a large one at least 0.9. Claims about small nu leave out
nu = 0, where Adam divides its momentum by the present gradient alone.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from experiments.common.records import Results
from experiments.common.stats import ALPHA, Estimate, every_above, every_below, mean
from scripts.effects import mean_share, percentage, ratio
from scripts.figures import style
from scripts.paper import NAMES, OPTIMIZERS, Measured

FIRST = 120  # updates
BLACK = 0  # the seed whose start is black, without noise
# Standard deviation over starts of LaProp's log regret, and its degrees of freedom: measured on
# three starts at 128 pixels and nu 0.4, near the largest of all optimizers and nu there.
ONE_START, ONE_START_DF = 0.04, 2
SMALL, LARGE = 0.4, 0.9  # a small nu is at most, a large one at least
BEST = 0.4  # the best nu that the paper reports for LaProp (5.2)
SHOWN = (0.0, 0.2, 0.4, 0.7, 0.9, 0.999)  # the nu of the curves, where more were run


def finding(results: Results) -> str:
    """The title."""
    lowest = {o: regrets(results, o).min(axis=1) for o in _optimizers(results)}
    laprop = lowest.pop("laprop")
    gaps = {o: over_starts(own, laprop) for o, own in lowest.items()}
    noisy = any(isinstance(gap, OverStarts) for gap in gaps.values())
    text = ", black and noisy starts: " if noisy else ": "
    text += "; ".join(
        f"{NAMES[o]}'s "
        + (f"{math.expm1(gap.black):+.1%}, " if isinstance(gap, OverStarts) else "")
        + str(percentage(gap))
        for o, gap in gaps.items()
    )
    text += " (undecided)" * (style_lowest(results).held is None)
    sgd = results.runs[(results.runs.optimizer == "sgd") & (results.runs.seed == BLACK)].regret
    if sgd.notna().any():
        text += f"; SGD's over lr {sgd.min() / laprop[BLACK] - 1:+.1%}" + " (black)" * noisy
    return f"Style transfer, lowest regret over ν against LaProp's{text}"


def draw(results: Results) -> Figure:
    """Regret against nu, a panel of curves per optimizer, and the final pictures."""
    optimizers = _optimizers(results)
    rows: list[Any] = [["regret", *optimizers]]
    rows += [[f"{o} pictures"] * (1 + len(optimizers)) for o in optimizers]
    figure, axes = plt.subplot_mosaic(
        rows,
        figsize=(10.5, 3.4 + 1.25 * len(optimizers)),
        width_ratios=[1.4] + [1] * len(optimizers),
        height_ratios=[2.7] + [1] * len(optimizers),
    )
    regret(axes["regret"], results.runs)
    values = sorted(results.runs.nu.dropna().unique())
    best = np.interp(BEST, values, range(len(values)))  # the values are at equal distances
    style.paper(axes["regret"], f"best\nν about {BEST:g}", x=best, at=0.2)
    style.legend(figure, axes["regret"], 5)
    axes["regret"].set_ylabel("mean loss of all updates, R(T)/T")
    curves = results.curves
    black = curves[(curves.seed == BLACK) & (curves.step <= FIRST)]
    start = black[black.step == 1].loss.max()
    for optimizer in optimizers:
        axis = axes[optimizer]
        _first(axis, black[black.optimizer == optimizer])
        axis.set_title(NAMES[optimizer])
        axis.set_ylim(0.8 * black.loss.min(), 1.3 * start)
        if optimizer != optimizers[0]:
            axis.tick_params(labelleft=False)
    axes[optimizers[0]].set_ylabel("loss")
    axes[optimizers[-1]].legend(title="ν", fontsize=7, ncols=2, loc="upper right")
    for optimizer in optimizers:
        _pictures(axes[f"{optimizer} pictures"], results, optimizer)
        axes[f"{optimizer} pictures"].tick_params(labelbottom=optimizer == optimizers[-1])
    rates = results.runs.lr[results.runs.optimizer == "sgd"].nunique()
    setting = "lr 0.01, µ 0.9" + (f"; SGD with the best of {rates} lr" if rates else "")
    style.provenance(figure, results, note(results, setting))
    return figure


def note(results: Results, setting: str) -> str:
    """The figure's note: length, setting, weights if the label has not said it, and the starts."""
    (weights,) = results.runs.weights.unique()
    of = "" if results.manifest["reduced"] else f", {weights} weights"
    noisy = results.runs.seed.nunique() - 1
    starts = "; one start, the black picture (open marks)"
    if noisy:
        starts = f"; {noisy + 1} starts: the black picture (open marks, and the other panels), and "
        starts += f"{noisy} with invisible noise (lines: mean, bands: range)"
    else:
        starts += ", so the intervals assume a standard deviation of "
        starts += f"{ONE_START:g} in the log regret"
    updates = results.manifest["settings"]["task.updates"]
    return f"T = {updates} updates{of}, {setting}{starts}"


def regret(axis: Axes, runs: pd.DataFrame) -> None:
    """R(T)/T against nu: the mean over noisy starts in a band of their range, and the black start.

    The black start has open marks, and a line only where there is no other start. The axis ends at
    four times the lowest value; what lies above is written there as a number.

    Args:
        axis: to draw on.
        runs: with columns optimizer, nu, seed, regret.
    """
    alone, runs = runs[~runs.optimizer.isin(OPTIMIZERS)], runs[runs.optimizer.isin(OPTIMIZERS)]
    values = sorted(runs.nu.unique())
    places = np.arange(len(values))  # at equal distances, because many values are near 1
    lowest = runs.regret.min()
    bottom, top = 0.9 * min(lowest, alone.regret.min()), 4 * lowest
    axis.set(yscale="log", ylim=(bottom, top))
    style.plain(axis.yaxis)
    for optimizer, cell in runs.groupby("optimizer"):
        table = cell.pivot_table(index="nu", columns="seed", values="regret").reindex(values)
        black, noisy = table[BLACK], table.drop(columns=BLACK)
        colour, look = style.COLOUR[str(optimizer)], style.line(str(optimizer))
        shown = black if noisy.empty else noisy.mean(axis=1)
        style.band(axis, places, (shown, noisy.min(axis=1), noisy.max(axis=1)), **look)
        axis.plot(places, black, "o", color=colour, markersize=3.5, markerfacecolor="white")
        for place, value in zip(places, shown, strict=True):
            if value > top:
                number = f"{value:,.0f}" if value < 1e4 else f"{value / 1e3:,.0f}k"
                words: dict[str, Any] = {"fontsize": 7, "color": colour, "va": "bottom"}
                axis.text(float(place), top, f"↑ {number}", **words)
    for optimizer, cell in alone[alone.seed == BLACK].groupby("optimizer"):  # without a nu
        best = cell.sort_values("regret").iloc[0]  # NaN last
        look = style.line(str(optimizer)) | {"linewidth": 1}
        if not np.isfinite(best.regret):
            look["linestyle"] = "none"
        if "lr" in cell:
            look["label"] += f", lr {best.lr:g}"
        if not np.isfinite(best.regret):
            look["label"] += ": diverges"
        axis.axhline(best.regret, **look)
    axis.set_xticks(places, [f"{nu:g}" for nu in values], fontsize=7, rotation=45)
    axis.set_xlabel("ν")


def _optimizers(results: Results) -> list[str]:
    return [o for o in OPTIMIZERS if o in set(results.runs.optimizer)]


def _first(axis: Axes, curves: pd.DataFrame) -> None:
    """The losses of one optimizer's first updates, a curve for each shown nu that was run."""
    values = sorted(curves.nu.unique())
    shown = values if len(values) <= len(SHOWN) else SHOWN
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(shown)))
    for nu, colour in zip(shown, colours, strict=True):
        curve = curves[np.isclose(curves.nu, nu)]
        if len(curve):
            axis.plot(curve.step, curve.loss, color=colour, linewidth=1, label=f"{nu:g}")
    axis.set(yscale="log", xlabel="updates", xlim=(0, FIRST))
    style.plain(axis.yaxis)


def _pictures(axis: Axes, results: Results, optimizer: str) -> None:
    """The final pictures of one optimizer at every nu of the first start, from the montages.

    The montage of a run has a square picture for each nu, those of its first start.
    """
    first = results.every_run.seed.min()
    found: dict[float, np.ndarray] = {}
    for run, rows in results.by_run:
        if run["optimizer"] == optimizer and rows.seed.min() == first:
            with Image.open(results.folder / f"{run['key']}-montage.jpg") as montage:
                pictures = np.array_split(np.asarray(montage), rows.nu.nunique(), axis=1)
            found |= dict(zip(rows.nu.unique(), pictures, strict=True))
    values = sorted(found)
    width = found[values[0]].shape[1]
    axis.imshow(np.concatenate([found[nu] for nu in values], axis=1))
    places = width * (np.arange(len(values)) + 0.5)
    axis.set_xticks(places, [f"ν {nu:g}" for nu in values], fontsize=7)
    axis.set_yticks([])
    axis.set_ylabel(NAMES[optimizer])
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)


def first_runs(results: Results) -> list[str]:
    """What the runs of unfinished starts show: a line for each start and nu."""
    runs = results.every_run[results.every_run.optimizer.isin(OPTIMIZERS)]
    cells = []
    for (seed, nu), cell in runs.groupby(["seed", "nu"]):
        regret = ", ".join(f"{NAMES[run.optimizer]} {run.regret:.3g}" for run in cell.itertuples())
        cells.append(f"start {seed}, ν {nu:g}: regret of {regret}")
    return cells


def so_far(results: Results) -> str:
    """What the runs of unfinished starts show, as the end of a sentence."""
    runs = results.every_run[results.every_run.optimizer.isin(OPTIMIZERS)]
    table = runs.pivot(index=["seed", "nu"], columns="optimizer", values="regret")
    change = (table.adam / table.laprop - 1).dropna().groupby("nu").mean()
    cells = " and ".join(f"{gap:+.0%} at ν {nu:g}" for nu, gap in change.items())
    return f"Adam's regret against LaProp's is {cells}"


# Claims -------------------------------------------------------------------------------------------


def regrets(results: Results, optimizer: str) -> pd.DataFrame:
    """R(T)/T, one row per seed, one column per nu."""
    runs = results.runs[results.runs.optimizer == optimizer]
    return runs.pivot(index="seed", columns="nu", values="regret")


@dataclass(frozen=True)
class OverStarts(Estimate):
    """The mean over noisy starts, with the value from the black one, which has to agree in sign.

    Attributes:
        black: the value from the black start.
    """

    black: float = math.nan

    def above(self, limit: float = 0.0) -> float:
        """As that of an estimate; 1 if the value from the black start is not above."""
        return super().above(limit) if self.black > limit else 1.0

    def below(self, limit: float = 0.0) -> float:
        """As that of an estimate; 1 if the value from the black start is not below."""
        return super().below(limit) if self.black < limit else 1.0

    def __neg__(self) -> Self:
        return replace(self, centre=-self.centre, black=-self.black)


def over_starts(a: pd.Series, b: pd.Series) -> Estimate:
    """log a - log b; a and b have a value for each start."""
    gap = np.log(a) - np.log(b)
    if len(gap) == 1:
        return Estimate(float(gap.iloc[0]), 2**0.5 * ONE_START, ONE_START_DF)
    return noisy_and_black(gap)


def noisy_and_black(values: pd.Series) -> OverStarts:
    """The mean of values over noisy starts, beside the one from the black start."""
    noisy = mean(values.drop(BLACK))
    return OverStarts(noisy.centre, noisy.error, noisy.df, black=float(values[BLACK]))


def in_words(gap: Estimate) -> str:
    """The logarithm of a ratio: ``+3.2% from black, +6.7% [+6.5%, +6.8%] from noisy starts``."""
    if not isinstance(gap, OverStarts):
        return str(percentage(gap))
    return f"{math.expm1(gap.black):+.1%} from black, {percentage(gap)} from noisy starts"


def style_lowest(results: Results) -> Measured:
    """Whether LaProp's lowest regret over nu is below Adam's and AMSGrad's, paired by start."""
    lowest = {o: regrets(results, o).min(axis=1) for o in OPTIMIZERS}
    gaps = {o: over_starts(lowest[o], lowest["laprop"]) for o in ("adam", "amsgrad")}
    text = ", ".join(
        f"{NAMES[o]} {values.mean():.4g} at ν {regrets(results, o).mean().idxmin():g}"
        for o, values in lowest.items()
    )
    apart = "; ".join(f"{NAMES[o]}'s {in_words(gap)}" for o, gap in gaps.items())
    return Measured(
        f"lowest regret, mean over starts: {text}; against LaProp's: {apart}",
        every_above(gaps.values()),
        f"against LaProp's lowest regret: {apart}",
        [percentage(gap) for gap in gaps.values()],
    )


def style_across_nu(results: Results) -> Measured:
    """Whether LaProp's regret is below both others' at every nu."""
    laprop = regrets(results, "laprop")
    gaps: dict[tuple[str, float], Estimate] = {}
    for optimizer in ("adam", "amsgrad"):
        other = regrets(results, optimizer)
        gaps |= {(optimizer, nu): over_starts(other[nu], laprop[nu]) for nu in laprop}
    text = []
    for optimizer in ("adam", "amsgrad"):
        cells = {nu: gap for (o, nu), gap in gaps.items() if o == optimizer}
        lost = [f"{nu:g}" for nu, gap in cells.items() if gap.centre <= 0]
        words = f"lower than {NAMES[optimizer]}'s at {len(cells) - len(lost)} of {len(cells)} ν"
        words += f" (not at {', '.join(lost)})" if lost else ""
        below, above = (
            [f"{nu:g}" for nu, gap in cells.items() if p(gap) < ALPHA / 2]
            for p in (lambda gap: gap.above(), lambda gap: gap.below())
        )
        text.append(
            f"{words}; clearly lower at {len(below)}, higher at {len(above)}"
            + (f" ({', '.join(above)})" if above else "")
        )
    won = sum(gap.centre > 0 for gap in gaps.values())
    return Measured("; ".join(text), every_above(gaps.values()),
                    f"LaProp's is lower in {won} of {len(gaps)} comparisons; the claim needs "
                    "all")  # fmt: skip


def style_best_nu(results: Results) -> Measured:
    """Whether the lowest regret within 0.1 of BEST is below the lowest at other nu."""
    table = regrets(results, "laprop")
    near = np.isclose(table.columns, BEST, atol=0.1 + 1e-9)
    gap = over_starts(table.loc[:, ~near].min(axis=1), table.loc[:, near].min(axis=1))
    best = table.idxmin(axis=1)
    return Measured(
        f"best ν {best.min():g} to {best.max():g} over starts; lowest regret at other ν "
        f"against that at 0.3 to 0.5: {in_words(gap)}",
        every_above([gap]),
        f"the best ν is {table.mean().idxmin():g}; the paper says {BEST:g}",
        [percentage(gap)],
    )


def small_over_large(results: Results, optimizer: str) -> Estimate:
    """Geometric mean of the regret at small nu against that at large nu."""
    logs = np.log(regrets(results, optimizer))
    small = logs.loc[:, (logs.columns > 0) & (logs.columns <= SMALL)].mean(axis=1)
    large = logs.loc[:, logs.columns >= LARGE].mean(axis=1)
    return over_starts(np.exp(small), np.exp(large))


def style_small_nu(results: Results, optimizer: str, helps: bool) -> Measured:
    """Whether the regret at small nu over that at large nu is below 1; above, without ``helps``."""
    log = small_over_large(results, optimizer)
    change = ratio(log, ".3g")
    return Measured(
        f"regret at small ν over that at large ν {change}{from_black(log)}",
        every_below([log]) if helps else every_above([log]),
        f"the regret is {abs(change.centre - 1):.0%} {'lower' if log.centre < 0 else 'higher'} at "
        f"small ν; the claim needs it {'lower' if helps else 'higher'}",
        [change],
    )


def style_only_large_nu(results: Results, optimizer: str) -> Measured:
    """Whether the regret at every small nu is above that at large nu."""
    logs = np.log(regrets(results, optimizer))
    large = np.exp(logs.loc[:, logs.columns >= LARGE].mean(axis=1))
    gaps = {nu: over_starts(np.exp(logs[nu]), large) for nu in logs if 0 < nu < LARGE}
    small = {nu: gap for nu, gap in gaps.items() if nu <= SMALL}
    lowest = min(small, key=lambda nu: small[nu].centre)
    between = ", ".join(
        f"ν {nu:g} has {ratio(gap, '.3g')}{from_black(gap)}"
        for nu, gap in gaps.items()
        if nu > SMALL
    )
    found = ratio(small[lowest], ".3g")
    return Measured(
        f"regret over the mean at ν from {LARGE:g} on: of {len(small)} ν above 0 and up to "
        f"{SMALL:g} the best, ν {lowest:g}, has {found}{from_black(small[lowest])}"
        + (f"; between, where no claim is made, {between}" if between else ""),
        every_above(small.values()),
        f"the lowest ratio is {found.centre:.3g}; the claim needs every ratio above 1",
        [found],
    )


def from_black(log: Estimate) -> str:
    """``, from black 1.12``: the ratio from the black start, if noisy ones are estimated."""
    return f", from black {math.exp(log.black):.3g}" if isinstance(log, OverStarts) else ""


def rises(results: Results, optimizer: str) -> pd.Series:
    """Share of the first 120 updates at which the loss rose: of each seed, the mean over nu > 0."""
    curves = results.curves
    chosen = curves[(curves.optimizer == optimizer) & (curves.nu > 0) & (curves.step <= FIRST)]
    ordered = chosen.sort_values("step").groupby(["seed", "nu"]).loss
    return ordered.apply(lambda loss: (np.diff(loss) > 0).mean()).groupby("seed").mean()


def style_adam_oscillates(results: Results) -> Measured:
    """Whether Adam's loss rises at more of the first updates than LaProp's and AMSGrad's."""
    share = {o: rises(results, o) for o in ("adam", "amsgrad", "laprop")}
    found = {o: noisy_and_black(values) for o, values in share.items()}
    gaps = [noisy_and_black(share["adam"] - share[o]) for o in ("amsgrad", "laprop")]
    means = {o: mean_share(values) for o, values in found.items()}
    text = ", ".join(f"{NAMES[o]} {m} (black {found[o].black:.1%})" for o, m in means.items())
    return Measured(
        f"share of the first {FIRST} updates at which the loss rises, noisy starts: {text}",
        every_above(gaps),
        f"the loss rises at {found['adam'].centre:.0%} of Adam's updates, at "
        f"{found['laprop'].centre:.0%} of LaProp's",
        [*means.values()],
    )
