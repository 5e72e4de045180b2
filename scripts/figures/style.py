"""One look for all figures: colours by optimizer, sizes, and the line that says what was run."""

import re
import textwrap
from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, FigureBase
from matplotlib.legend import Legend
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter1d

from experiments.common.records import Results, begun
from experiments.common.stats import Estimate, median
from scripts import words
from scripts.paper import NAMES, label, script

# Okabe-Ito colours: told apart by colour-blind readers and in grey print.
COLOUR = {
    "adam": "#D55E00",
    "amsgrad": "#E69F00",
    "laprop": "#0072B2",
    "amsprop": "#56B4E9",
    "centered": "#009E73",
    "signsgd": "#0072B2",
    "signum": "#CC79A7",
    "sgd": "#555555",
    "lbfgs": "#999999",
}
# For what is no optimizer: schedules, packages, courses of nu.
OTHER = ("#444444", "#6A3D9A", "#8C510A", "#5F7F00", "#01665E")
DASH = {"adam": (0, (5, 1.5)), "amsgrad": (0, (1.5, 1.2)), "laprop": "solid",
        "centered": (0, (3, 1)), "sgd": (0, (3, 1, 1, 1)), "lbfgs": (0, (1, 1))}  # fmt: skip

# For what the paper itself reports.
PAPER: dict[str, Any] = {"color": "#666666", "linewidth": 1, "linestyle": (0, (4, 2))}

# To an inch: characters of the line below a figure, and of its title.
CHARACTERS, BOLD = 17, 11

RC: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 2.8,  # long enough for dashed lines to look dashed
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
}


def use() -> None:
    """Apply the look; :mod:`scripts.make_figures` does it before each figure."""
    mpl.rcdefaults()
    mpl.rcParams.update(RC)


def line(optimizer: str) -> dict[str, Any]:
    """Keyword arguments for the curve of an optimizer."""
    return {
        "color": COLOUR[optimizer],
        "linestyle": DASH.get(optimizer, "solid"),
        "label": NAMES[optimizer],
    }


def legend(figure: FigureBase, axis: Axes, columns: int) -> Legend:
    """The legend of an axis above the figure: Adam, AMSGrad and LaProp first, as in all figures.

    The order in which curves are drawn may be another one, so that none hides another's dashes.
    """
    handles, labels = axis.get_legend_handles_labels()
    of = dict(zip(labels, handles, strict=True))
    first = [NAMES[o] for o in ("adam", "amsgrad", "laprop") if NAMES[o] in of]
    order = [*first, *(label for label in labels if label not in first)]
    lines = [of[text] for text in order]
    return figure.legend(lines, order, loc="outside upper center", ncols=columns)


def intervals(found: Iterable[Estimate]) -> np.ndarray:
    """Three rows: the estimates, and the lower and the upper ends of their intervals."""
    return np.transpose([(e.centre, e.low, e.high) for e in found])


def band(
    axis: Axes, x: ArrayLike, rows: Iterable[ArrayLike], alpha: float = 0.2, **look: Any
) -> None:
    """Draw a line in a band.

    Args:
        axis: to draw on.
        x: a place for each point.
        rows: the line, and the lower and the upper edge of the band; see :func:`intervals`.
        alpha: how opaque the band is.
        look: keywords of the line; ``color`` is also the band's.
    """
    middle, low, high = rows
    axis.plot(x, middle, **look)
    axis.fill_between(x, low, high, color=look["color"], alpha=alpha, linewidth=0)


def geometric(axis: Axes, x: ArrayLike, logs: Iterable[Estimate], **look: Any) -> None:
    """Draw geometric means in a band of their intervals; ``logs`` are of their logarithms."""
    band(axis, x, np.exp(intervals(logs)), **look)


def medians(axis: Axes, seeds: pd.DataFrame, **look: Any) -> None:
    """Draw the median over seeds in a band of its interval; a column of ``seeds`` is a curve."""
    band(axis, seeds.index, np.transpose([median(row) for row in seeds.to_numpy()]), **look)


def smoothed(axis: Axes, seeds: pd.DataFrame, sigma: float, **look: Any) -> None:
    """Draw the mean over seeds in a band of their range, both of the curves after a Gaussian."""
    smooth = gaussian_filter1d(seeds.to_numpy(), sigma, axis=0)
    band(axis, seeds.index, (smooth.mean(1), smooth.min(1), smooth.max(1)), **look)


def errorbars(
    axis: Axes, places: ArrayLike, rows: np.ndarray, *, across: bool = False, **look: Any
) -> None:
    """Draw points with bars.

    Args:
        axis: to draw on.
        places: of the points: x or, if ``across``, y.
        rows: the points, and the lower and the upper ends of their bars; see :func:`intervals`.
        across: the bars lie.
        look: keywords of ``errorbar``.
    """
    centre, low, high = rows
    error = centre - low, high - centre
    if across:
        axis.errorbar(centre, places, xerr=error, **look)
    else:
        axis.errorbar(places, centre, yerr=error, **look)


def short(value: float) -> str:
    """``1e-5`` and ``0.001``, as people write them."""
    digits, power = f"{value:e}".split("e")
    return f"{float(digits):g}e{int(power)}" if value < 1e-3 else f"{value:g}"


def steps(axis: Axes) -> None:
    """Thousands and millions on the x axis as k and M."""
    axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k")


def plain(axis: Axis, of_decade: tuple[float, ...] = (1, 2, 5)) -> None:
    """Label these numbers of each decade in plain digits: for a logarithmic axis of few decades."""
    axis.set_major_locator(LogLocator(subs=of_decade))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def paper(
    axis: Axes,
    text: str,
    *,
    x: float | None = None,
    y: float | None = None,
    at: float = 0.98,
    before: bool = False,
    start: float = 0.0,
) -> None:
    """What the paper itself reports: a dashed grey line at x or at y, with words beside it.

    Args:
        axis: to draw on.
        text: the words, before which "paper: " is put.
        x: where the line stands upright, in data; the words are on its right.
        y: or where it lies, in data; the words are above it and end at ``at``.
        at: where along the line the words are, as a share of the axes.
        before: the words are on the left, or below.
        start: where the line at y begins, as a share of the axes.
    """
    look = {**PAPER, "zorder": 1.5}
    words = {"fontsize": 7, "color": PAPER["color"], "textcoords": "offset points"}
    words["bbox"] = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
    if x is not None:
        axis.axvline(x, **look)
        where, along = (x, at), axis.get_xaxis_transform()
        words |= {
            "xytext": (-4 if before else 4, 0),
            "ha": "right" if before else "left",
            "va": "top",
        }
    else:
        assert y is not None  # one of the two is given
        axis.axhline(y, xmin=start, **look)
        where, along = (at, y), axis.get_yaxis_transform()
        words |= {
            "xytext": (0, -4 if before else 4),
            "ha": "right",
            "va": "top" if before else "bottom",
        }
    axis.annotate(f"paper: {text}", where, xycoords=along, **words)


def together(text: str) -> str:
    """Replace spaces at which no line may end: ``ν = 0``, ``ν 0``, ``> 0``, ``7 %``, ``[1, 2]``."""
    within = r" = |\[[^][]*\]|\(\S+, \S+\)"
    between = r"(?<=[µνσε<>±]) (?=[\d√<>])|(?<=\blr) (?=\d)|(?<=\bno) (?=[µνσ])"
    between += r"|(?<=[\d\]]) (?=%)|(?<=×) (?=n)"
    text = re.sub(within, lambda found: found[0].replace(" ", "\u00a0"), text)
    return re.sub(between, "\u00a0", text)


def below(figure: Figure, text: str) -> None:
    """The small lines below a figure, broken where they are longer than it is wide.

    Labels of results have the names of settings, which become Greek letters here.
    """
    width = int(CHARACTERS * figure.get_figwidth())
    text = together(words.greek(text))
    lines = "\n".join(
        balanced(line, width)
        if len(textwrap.wrap(line, width)[-1]) < width / 6
        else textwrap.fill(line, width)
        for line in text.splitlines()
    )
    figure.supxlabel(lines, fontsize=7, color="#666666", x=0.995, ha="right")


def balanced(text: str, widest: int) -> str:
    """A text in as few lines as it needs, each as narrow as then possible: no last word alone."""
    lines = len(textwrap.wrap(text, widest))
    narrow = range(len(text) // lines, widest)
    return textwrap.fill(
        text, next((w for w in narrow if len(textwrap.wrap(text, w)) == lines), widest)
    )


def headline(width: float, finding: str, verdicts: str) -> Figure:
    """The strip above a figure: what was found, and what became of the paper's claims.

    It is a picture of its own, so that no layout of a figure has to make room for it.

    Args:
        width: of the figure, in inches.
        finding: a sentence.
        verdicts: a line, or nothing.
    """
    finding = together(finding)
    title = balanced(finding, int(BOLD * width))
    lines = len(title.splitlines())
    height = 0.12 + 0.18 * (lines + bool(verdicts))
    strip = Figure((width, height))
    top = 1 - 0.06 / height
    strip.text(0.5, top, title, fontsize=10.5, fontweight="bold", ha="center", va="top")
    below = top - (0.18 * lines + 0.02) / height
    strip.text(0.5, below, verdicts, fontsize=8, color="#444444", ha="center", va="top")
    return strip


def provenance(figure: Figure, results: Results, note: str = "") -> None:
    """Write what was run below the figure: scale, what it reduces, seeds, setting, ``note``.

    If runs of a larger scale have begun, and the figure's script has a function ``so_far``, a
    sentence of it says what they show.
    """
    text = label(results) + (f"; {note}" if note else "")
    name = results.manifest.get("figure") or ""
    first = begun(name)
    told = getattr(script(name), "so_far", None) if first else None
    if first and told:
        scale = f"scale {first.scale} ({first.manifest['reduced']})"
        text += f"\nFirst runs of {scale}, which decide no claim yet: {told(first)}."
    below(figure, text)
