"""One look for all figures: colours by optimizer, sizes, and the line that says what was run."""

import textwrap

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.common.records import Results

# Okabe-Ito colours: told apart by colour-blind readers and in grey print.
COLOUR = {
    "adam": "#D55E00",
    "amsgrad": "#E69F00",
    "laprop": "#0072B2",
    "amsprop": "#56B4E9",
    "centered_laprop": "#009E73",
    "lapropw": "#332288",
    "rmsprop": "#CC79A7",
    "ssg_m": "#555555",
    "sgd_m": "#999999",
}
NAME = {
    "adam": "Adam",
    "amsgrad": "AMSGrad",
    "laprop": "LaProp",
    "amsprop": "AmsProp",
    "centered_laprop": "Centered LaProp",
    "lapropw": "LaPropW",
    "rmsprop": "RMSProp",
    "ssg_m": "Signed SGD-M",
    "sgd_m": "SGD-M",
}
DASH = {"adam": (0, (5, 1.5)), "amsgrad": (0, (1.5, 1.2)), "laprop": "solid"}

CHARACTERS = 17  # of the line below a figure, to an inch

RC = {
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
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
}


def use() -> None:
    """Apply the look; :mod:`scripts.make_figures` does it before each figure."""
    mpl.rcdefaults()
    mpl.rcParams.update(RC)


def line(optimizer: str) -> dict[str, object]:
    """Keyword arguments for the curve of an optimizer."""
    return {
        "color": COLOUR[optimizer],
        "linestyle": DASH.get(optimizer, "solid"),
        "label": NAME[optimizer],
    }


def provenance(figure: Figure, results: Results, note: str = "") -> None:
    """Write what was run below the figure: scale, what it reduces, seeds, and ``note``."""
    text = results.label + (f"; {note}" if note else "")
    lines = textwrap.fill(text, int(CHARACTERS * figure.get_figwidth()))
    figure.supxlabel(lines, fontsize=7, color="#666666", x=0.995, ha="right")
