"""Maps, lines and curves of a sweep as Altair charts, for a PNG or for a page.

Each function takes a long table whose axes are columns, with ``mean``, ``low``, ``high`` (the
interval, NaN where there is none) and ``count`` (seeds with a number); a table of cells has
``seeds`` and ``diverged`` besides.
"""

import math
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from scripts.figures.style import COLOUR, NAME
from scripts.report import deviation, number

SPAN = 20  # numbers whose largest is more than so many times the smallest get a logarithmic scale
WIDE = 12  # columns of a map at most whose cells have room for the interval
GREY = "#cfcfcf"  # a cell without a number
SPARE = ("#117733", "#882255", "#44AA99", "#999933", "#AA4499", "#332288")  # of other optimizers
BRIGHT = 0.55  # of the colour scale; above it black letters are read better than white ones


def text(x: object) -> str:
    """The value of an axis; a dash for an optimizer that has no such setting."""
    if isinstance(x, float):
        return "–" if math.isnan(x) else f"{x:.7g}"
    return NAME.get(str(x), str(x))


def rank(column: pd.Series) -> pd.Series:
    """What the values of an axis are sorted by: numbers, or words; optimizers as in the paper."""
    if column.dtype != object:
        return column
    known = {name: f" {place:03}" for place, name in enumerate(NAME)}  # before all other words
    return column.map(lambda word: known.get(word, str(word)))


def values(column: pd.Series) -> list[str]:
    """The values of an axis as text, sorted."""
    return [text(x) for x in column.drop_duplicates().sort_values(key=rank)]


class Plot:
    """A table that is ready to be drawn.

    Args:
        frame: the table.
        axes: those that the panel itself shows.
        others: those whose values have panels of their own: the first side by side, each
            combination of the rest below each other.

    Attributes:
        frame: the table with its axes as text; ``across`` and ``down`` name a row's panel.
        order: of each axis the values as text, in order.
        facets: the encodings of the panels.
    """

    def __init__(self, frame: pd.DataFrame, axes: Sequence[str], others: Sequence[str]) -> None:
        self.order = {name: values(frame[name]) for name in (*axes, *others)}
        self.frame = frame.copy()
        for name in self.order:
            self.frame[name] = frame[name].map(text, na_action=None)
        self.facets: dict[str, alt.Row | alt.Column] = {}
        for place, names in (("across", others[:1]), ("down", others[1:])):
            if not names:
                continue
            words = [
                self.frame[name] if name == "optimizer" else name + " " + self.frame[name]
                for name in names
            ]
            self.frame[place] = pd.concat(words, axis=1).agg(", ".join, axis=1)
            ranks = self.frame[list(names)].apply(lambda c: c.map(self.order[c.name].index))
            places = self.frame.loc[ranks.sort_values(list(names)).index, place]
            across = place == "across"
            header = alt.Header(title=None, labelOrient="top", labelFontWeight="bold")
            if not across:
                header.labelAnchor = "start"
            encoding = alt.Column if across else alt.Row
            self.facets["column" if across else "row"] = encoding(
                field=place, type="nominal", sort=list(dict.fromkeys(places)), header=header
            )

    def tooltip(self, *numbers: str) -> list[alt.Tooltip]:
        """What the pointer shows: the axes, and numbers with five digits."""
        names = {"low": "interval from", "high": "interval to", "count": "seeds with a number"}
        return [alt.Tooltip(field=name, type="nominal") for name in self.order] + [
            alt.Tooltip(field=name, type="quantitative", format=".5~g", title=names.get(name, name))
            for name in numbers
        ]

    def chart(self, metric: str, *layers: alt.Chart, **size: object) -> alt.TopLevelMixin:
        """The layers in their panels, under the name of what is shown."""
        layered = alt.layer(*layers).properties(**size)
        whole = layered.facet(**self.facets, spacing=16) if self.facets else layered
        return whole.properties(title=alt.Title(metric, anchor="start", fontSize=14, offset=12))


def grid(
    frame: pd.DataFrame, metric: str, x: str, y: str, others: Sequence[str]
) -> alt.TopLevelMixin:
    """A map: the mean of each cell as a colour and in digits.

    Args:
        frame: one row per cell.
        metric: its name.
        x, y: the axes of the map.
        others: axes whose values have panels of their own.
    """
    plot = Plot(frame, [x, y], others)
    wide = len(plot.order[x]) <= WIDE
    least, most, log = spanned(frame["mean"])
    shades, ends = frame["mean"], [least, most]
    if log:
        shades, ends = np.log(shades), np.log(ends)
    share = (shades - ends[0]) / (ends[1] - ends[0] or 1)
    plot.frame["bright"] = ~(share < BRIGHT)
    plot.frame["known"] = frame["mean"].notna()
    plot.frame["label"] = [_label(cell, wide) for cell in frame.to_dict("records")]

    base = alt.Chart(plot.frame).encode(
        alt.X(field=x, type="ordinal", sort=plot.order[x], axis=alt.Axis(labelAngle=0, title=x)),
        alt.Y(field=y, type="ordinal", sort=plot.order[y][::-1], title=y),
        tooltip=plot.tooltip("mean", "low", "high", "count", "seeds", "diverged"),
    )
    kind = "log" if log else "linear"
    scale = alt.Scale(type=kind, scheme="viridis", domain=[least, most], clamp=True, nice=False)
    shade = alt.Color(field="mean", type="quantitative", scale=scale, title=None)
    tiles = base.mark_rect(stroke="white").encode(color=shade).transform_filter("datum.known")
    blank = base.mark_rect(stroke="white", color=GREY).transform_filter("!datum.known")
    two = max(map(len, plot.frame["label"])) > 1  # lines: the first is to stand above the middle
    digits = base.mark_text(fontSize=10, dy=-6 if two else 0).encode(
        text=alt.Text(field="label", type="nominal"),
        color=alt.when("datum.bright").then(alt.value("black")).otherwise(alt.value("white")),
    )
    size = {"width": alt.Step(60 if wide else 40), "height": alt.Step(34 if wide else 22)}
    return plot.chart(metric, blank, tiles, digits, **size)


def _label(cell: dict[str, float], wide: bool) -> list[str]:
    """What stands in a cell of a map, as lines; a star where not all seeds have a number."""
    if math.isnan(cell["mean"]):
        return ["diverged" if cell["diverged"] else "none"]
    first = number(cell["mean"]) + "*" * (cell["count"] < cell["seeds"])
    half = (cell["high"] - cell["low"]) / 2
    return [first, f"±{deviation(half)}"] if wide and not math.isnan(half) else [first]


def lines(
    frame: pd.DataFrame, metric: str, x: str, by: str | None, others: Sequence[str]
) -> alt.TopLevelMixin:
    """The mean against one axis with its interval, a line for each value of ``by``."""
    plot = Plot(frame, [x, by] if by else [x], others)
    base = alt.Chart(plot.frame).encode(
        alt.X(field=x, type="ordinal", sort=plot.order[x], axis=alt.Axis(labelAngle=0, title=x)),
        color=_colour(plot, frame, by),
        tooltip=plot.tooltip("mean", "low", "high", "count", "seeds", "diverged"),
    )
    mean, low, high = _heights(plot.frame, metric)
    bars = base.mark_rule(clip=True).encode(low, high).transform_filter("isValid(datum.low)")
    line = base.mark_line(point=alt.OverlayMarkDef(size=50)).encode(mean)
    return plot.chart(metric, bars, line, width=max(260, 48 * len(plot.order[x])), height=260)


def curves(
    frame: pd.DataFrame, metric: str, by: str | None, others: Sequence[str]
) -> alt.TopLevelMixin:
    """A metric against ``step``: a curve for each value of ``by``, its interval as a band.

    On a page a click on the legend brings one curve forward.
    """
    plot = Plot(frame, [by] if by else [], others)
    step = alt.Scale(nice=False, zero=False)
    base = alt.Chart(plot.frame).encode(
        alt.X(field="step", type="quantitative", scale=step, axis=alt.Axis(format="~s")),
        color=_colour(plot, frame, by),
    )
    mean, low, high = _heights(plot.frame, metric)
    band = base.mark_area(clip=True, opacity=0.18).encode(low, high)
    line = base.mark_line(clip=True, strokeWidth=1.6).encode(mean)
    if by:
        picked = alt.selection_point(fields=[by], bind="legend")
        forward = alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.08))
        line = line.encode(opacity=forward).add_params(picked)
    points = base.mark_point(opacity=0, size=120, clip=True).encode(
        mean, tooltip=[*plot.tooltip("step", "mean", "low", "high", "count")]
    )
    band = band.transform_filter("isValid(datum.low)")
    return plot.chart(metric, band, line, points, width=300, height=220)


def spanned(means: pd.Series) -> tuple[float, float, bool]:
    """The ends of a scale, and whether it is logarithmic.

    Where less than a twentieth of the numbers is far above all others, as of runs that exploded,
    the scale ends at these others.
    """
    least, most = means.min(), means.max()
    usual = means.quantile(0.95)
    if least >= 0 and most > SPAN * usual:
        most = usual
    return least, most, bool(least > 0 and most > SPAN * least)


def _heights(frame: pd.DataFrame, metric: str) -> tuple[alt.Y, alt.Y, alt.Y2]:
    """Encodings of the mean and of the two ends of its interval.

    What reaches far beyond the scale is drawn to just outside of it; the pointer shows the number.
    """
    least, most, log = spanned(frame["mean"])
    if log:
        ends, outside = [least / 1.2, most * 1.2], [least / 2, most * 2]
        scale = alt.Scale(type="log", domain=ends, nice=False)
    else:
        room = 0.1 * (most - least or abs(most) or 1)
        ends, outside = [least - room, most + room], [least - 2 * room, most + 2 * room]
        scale = alt.Scale(domain=ends, nice=False)
    for drawn, name in (("at", "mean"), ("bottom", "low"), ("top", "high")):
        frame[drawn] = frame[name].clip(*outside)
    axis = alt.Axis(title=metric, format="~g" if most < 1e5 else ".3~g")
    middle, bottom = (
        alt.Y(field=field, type="quantitative", scale=scale, axis=axis)
        for field in ("at", "bottom")
    )
    return middle, bottom, alt.Y2(field="top")


def _colour(plot: Plot, frame: pd.DataFrame, by: str | None) -> alt.Color | dict[str, str]:
    """One colour for each value: the optimizers' own, numbers along a scale."""
    if by is None:
        return alt.value(COLOUR["laprop"])
    order, legend = plot.order[by], alt.Legend(symbolOpacity=1)
    if by == "optimizer":
        own = {NAME.get(name, name): colour for name, colour in COLOUR.items()}
        range_ = [own.get(name, SPARE[i % len(SPARE)]) for i, name in enumerate(order)]
        scale = alt.Scale(domain=order, range=range_)
        return alt.Color(field=by, type="nominal", scale=scale, title=None, legend=legend)
    numbers = pd.api.types.is_numeric_dtype(frame[by])
    scale = alt.Scale(scheme="viridis" if numbers else "tableau10")
    kind = "ordinal" if numbers else "nominal"
    return alt.Color(field=by, type=kind, sort=order, scale=scale, title=by, legend=legend)
