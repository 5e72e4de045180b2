"""Maps, lines and curves as Altair charts, for a PNG or for a page.

Each function takes a long table of :mod:`scripts.cells` with one metric. Its columns are the axes,
``centre`` (the average), ``low``, ``high`` and ``count``; a table of cells also has ``seeds`` and
``diverged``. A column ``apart`` marks numbers that do not belong to their line.
"""

import math
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from scripts.figures.style import COLOUR
from scripts.paper import NAMES
from scripts.words import deviation, name, number, value

SPAN = 20  # a scale is logarithmic if its largest number is more than so many times its smallest
WIDE = 12  # maps with at most so many columns show intervals; axes have at most so many places
GREY = "#cfcfcf"  # colour of a cell without a number
SPARE = ("#117733", "#882255", "#44AA99", "#999933", "#AA4499", "#332288")  # for other optimizers
BRIGHT = 0.55  # place on the colour scale; above it black text is easier to read than white
PAGE = 1_060  # width in pixels of all panels of a row
PANEL = (150, 420)  # least and largest width of a panel in pixels
WRAPPED = 5  # more panels of one axis than this are broken into several lines
# Plain digits, except for very small and very large numbers. Labels that the axis leaves out stay
# empty.
DIGITS = (
    "datum.label == '' ? '' : datum.value != 0 && (abs(datum.value) < 1e-3 || "
    "abs(datum.value) >= 1e6) ? replace(format(datum.value, '.2~e'), 'e+', 'e') : "
    "format(datum.value, ',.4~r')"
)
LOOK = {
    "axis": alt.AxisConfig(labelFontSize=11, titleFontSize=12, titleFontWeight="normal"),
    "legend": alt.LegendConfig(labelFontSize=12, titleFontSize=12),
    "view": alt.ViewConfig(stroke="#dddddd"),
}
TITLES = {"centre": "average", "low": "from", "high": "to", "of": "seeds with a number"}


def library() -> str:
    """The JavaScript that draws the charts of a page."""
    return vl_convert.javascript_bundle()  # type: ignore[call-arg]


def rank(column: pd.Series) -> pd.Series:
    """The sort key of an axis: numbers, or words, in which optimizers have the paper's order."""
    if column.dtype != object:
        return column
    known = {word: f" {place:03}" for place, word in enumerate(NAMES)}  # before all other words
    return column.map(lambda word: known.get(word, str(word)))


def values(column: pd.Series) -> list[str]:
    """The values of an axis as text, sorted."""
    return [value(x) for x in column.drop_duplicates().sort_values(key=rank)]


class Plot:
    """A table that is ready to be drawn.

    Args:
        frame: the table.
        axes: the axes that are shown within a panel.
        others: the axes whose values have separate panels: those of the first axis side by side,
            each combination of the others one below the other.

    Attributes:
        frame: the table with its axes as text; ``across`` and ``down`` name a row's panel.
        order: for each axis its values as text, in order.
        facets: the encodings of the panels.
        width: width of a panel in pixels.
    """

    def __init__(self, frame: pd.DataFrame, axes: Sequence[str], others: Sequence[str]) -> None:
        self.order = {axis: values(frame[axis]) for axis in (*axes, *others)}
        self.frame = frame.drop(columns=["metric", "count", "seeds"], errors="ignore")
        for axis in self.order:
            self.frame[axis] = frame[axis].map(value, na_action=None)
        count = frame["count"]
        if "seeds" in frame:
            seeds = frame["seeds"]
        else:  # a table of curves: the largest number of seeds at any step of the cell
            by = [self.frame[axis] for axis in self.order]
            seeds = count.groupby(by).transform("max") if by else 0 * count + count.max()
        self.frame["of"] = [f"{n} of {m}" for n, m in zip(count, seeds, strict=True)]
        self.frame["whole"] = count == seeds
        columns = len(self.order[others[0]]) if others else 1
        self.width = min(max(PAGE // columns - 20, PANEL[0]), PANEL[1])
        self.facets: dict[str, object] = {}
        wrapped = len(others) == 1 and columns > WRAPPED
        if wrapped:
            self.width = PAGE // (WRAPPED - 1) - 40
        for place, names in (("across", others[:1]), ("down", others[1:])):
            if not names:
                continue
            words = [
                self.frame[axis] if axis == "optimizer" else name(axis) + " " + self.frame[axis]
                for axis in names
            ]
            self.frame[place] = pd.concat(words, axis=1).agg(", ".join, axis=1)
            ranks = self.frame[list(names)].apply(lambda c: c.map(self.order[c.name].index))
            places = self.frame.loc[ranks.sort_values(list(names)).index, place]
            across = place == "across"
            header = alt.Header(
                title=None, labelOrient="top", labelFontWeight="bold", labelFontSize=12
            )
            if not across:
                header.labelAnchor = "start"
            kind = "facet" if wrapped else "column" if across else "row"
            encoding = {"facet": alt.Facet, "column": alt.Column, "row": alt.Row}[kind]
            self.facets[kind] = encoding(
                field=place, type="nominal", sort=list(dict.fromkeys(places)), header=header
            )
        if wrapped:
            self.facets["columns"] = WRAPPED - 1

    def tooltip(self, *numbers: str) -> list[alt.Tooltip]:
        """What the pointer shows: the axes, numbers with five digits, and the number of seeds."""
        texts = [(axis, name(axis)) for axis in self.order] + [("of", TITLES["of"])]
        found = [alt.Tooltip(field=f, type="nominal", title=title) for f, title in texts]
        found[-1:-1] = [
            alt.Tooltip(field=f, type="quantitative", format=".5~g", title=TITLES.get(f, name(f)))
            for f in numbers
            if f in self.frame
        ]
        return found

    def places(self, axis: str) -> alt.X:
        """The horizontal encoding of an axis with a place for each value."""
        ticks, order = alt.Axis(labelAngle=0), self.order[axis]
        return alt.X(field=axis, type="ordinal", sort=order, axis=ticks, title=name(axis))

    def x(self, axis: str, original: pd.Series, width: int) -> alt.X:
        """The horizontal encoding of an axis: places for its values, or a scale for many."""
        if original.dtype == object or len(self.order[axis]) <= WIDE:
            return self.places(axis)
        self.frame["x"] = original
        scale = _across(spanned(original)[2])
        ticks = alt.Axis(labelFlush=False, tickCount=max(3, width // 45), labelExpr=DIGITS)
        return alt.X(field="x", type="quantitative", scale=scale, axis=ticks, title=name(axis))

    def chart(self, title: str, *layers: alt.Chart, **size: object) -> alt.Chart:
        """The layers in their panels, under their title, with numbers of five digits."""
        for column in self.frame.select_dtypes("float"):
            self.frame[column] = [float(f"{x:.5g}") for x in self.frame[column]]
        layered = alt.layer(*layers).properties(**size)
        whole = layered.facet(**self.facets, spacing=16) if self.facets else layered
        heading = alt.Title(title, anchor="start", fontSize=14, offset=12)
        return whole.properties(title=heading).configure(**LOOK)


def grid(frame: pd.DataFrame, title: str, x: str, y: str, others: Sequence[str]) -> alt.Chart:
    """A map: the average of each cell as a colour and in digits.

    Args:
        frame: one row per cell.
        title: what is shown.
        x, y: the axes of the map.
        others: axes whose values have separate panels.
    """
    plot = Plot(frame, [x, y], others)
    wide = len(plot.order[x]) <= WIDE
    least, most, log = spanned(frame["centre"])
    shades, ends = frame["centre"], np.array([least, most])
    if log:
        shades, ends = np.log(shades), np.log(ends)
    share = (shades - ends[0]) / (ends[1] - ends[0] or 1)
    plot.frame["bright"] = ~(share < BRIGHT)
    plot.frame["known"] = np.isfinite(frame["centre"])
    plot.frame["label"] = [_label(cell, wide) for cell in frame.to_dict("records")]

    base = alt.Chart(plot.frame).encode(
        plot.places(x),
        alt.Y(
            field=y,
            type="ordinal",
            sort=plot.order[y][::-1],
            title=name(y),
            axis=alt.Axis(labelLimit=320),
        ),
        tooltip=plot.tooltip("centre", "low", "high", "diverged"),
    )
    kind = "log" if log else "linear"
    scale = alt.Scale(type=kind, scheme="cividis", domain=[least, most], clamp=True, nice=False)
    legend = alt.Legend(labelExpr=DIGITS)
    shade = alt.Color(field="centre", type="quantitative", scale=scale, title=None, legend=legend)
    tiles = base.mark_rect(stroke="white").encode(color=shade).transform_filter("datum.known")
    blank = base.mark_rect(stroke="white", color=GREY).transform_filter("!datum.known")
    two = max(map(len, plot.frame["label"])) > 1  # with two lines, the first is above the middle
    digits = base.mark_text(fontSize=10, dy=-6 if two else 0).encode(
        text=alt.Text(field="label", type="nominal"),
        color=alt.when("datum.bright").then(alt.value("black")).otherwise(alt.value("white")),
    )
    size = {"width": alt.Step(60 if wide else 40), "height": alt.Step(34 if wide else 22)}
    return plot.chart(title, blank, tiles, digits, **size)


def _label(cell: dict[str, float], wide: bool) -> list[str]:
    """The text of a cell of a map, in lines; it has the number of seeds if some have no value."""
    if not math.isfinite(cell["centre"]):
        return ["diverged" if cell["diverged"] else "never" if cell["centre"] > 0 else "none"]
    first, whole = number(cell["centre"]), cell["count"] == cell["seeds"]
    if not wide:
        return [first if whole else f"{first}*"]
    half = (cell["high"] - cell["low"]) / 2
    if not whole:
        return [first, f"{cell['count']:.0f} of {cell['seeds']:.0f}"]
    return [first, f"±{deviation(half)}"] if math.isfinite(half) else [first]


def lines(
    frame: pd.DataFrame,
    title: str,
    x: str,
    by: str | None,
    others: Sequence[str],
    size: tuple[int, int] | None = None,
    within: Sequence[float] | None = None,
) -> alt.Chart:
    """The average against one axis with its interval, a line for each value of ``by``.

    A mark is hollow if some seeds have no value or if it is marked as apart; no line leads to one
    that is apart. A cross at the top is a cell whose average is infinite or missing.

    Args:
        frame: one row per cell.
        title: what is shown; it is also the title of the vertical axis.
        x: the horizontal axis.
        by: the axis of the colours.
        others: axes whose values have separate panels.
        size: width and height of a panel in pixels; by default as there is room.
        within: the ends of the vertical scale; by default those of the numbers.
    """
    plot = Plot(frame, [x, by] if by else [x], others)
    width, height = size or (plot.width, 260)
    apart = frame["apart"] if "apart" in frame else pd.Series(False, frame.index)
    lost = ~np.isfinite(frame["centre"])
    drawn = frame.assign(centre=frame["centre"].where(~lost))
    centre, low, high = _heights(plot.frame, drawn, title, 2, within)
    plot.frame["solid"] = plot.frame["whole"] & ~apart
    plot.frame["line"] = plot.frame["at"].where(~apart)
    ranks = frame[by].map(value, na_action=None).map(plot.order[by].index) if by else 0
    plot.frame["row"] = 6 + 8 * ranks  # pixels from the top
    plot.frame["lost"] = lost
    base = alt.Chart(plot.frame).encode(
        plot.x(x, frame[x], width),
        color=_colour(plot, frame, by),
        tooltip=plot.tooltip("centre", "low", "high", "diverged"),
    )
    bars = base.mark_rule(clip=True).encode(low, high).transform_filter("isValid(datum.low)")
    joined = centre.copy()
    joined.field = "line"
    line = base.mark_line().encode(joined)
    marks = base.encode(centre).transform_filter("isValid(datum.at)")
    full = marks.mark_point(size=36, opacity=1, filled=True).transform_filter("datum.solid")
    hollow = marks.mark_point(size=36, opacity=1, fill="white").transform_filter("!datum.solid")
    place = alt.Y(field="row", type="quantitative", scale=None)
    cross = base.mark_text(text="×", fontSize=11).encode(place).transform_filter("datum.lost")
    known, solid = plot.frame["at"].notna(), plot.frame["solid"]
    rows = [  # a layer without a row would have no scale
        (bars, plot.frame["bottom"].notna()),
        (line, known),
        (full, known & solid),
        (hollow, known & ~solid),
        (cross, lost),
    ]
    layers = [layer for layer, shown in rows if shown.any()]
    return plot.chart(title, *layers, width=width, height=height)


def curves(
    frame: pd.DataFrame,
    title: str,
    by: str | None,
    others: Sequence[str],
    step: str = "step",
    size: tuple[int, int] | None = None,
    log: bool = False,
) -> alt.Chart:
    """A metric against ``step``: a curve for each value of ``by``, its interval as a band.

    A curve is dashed where some seeds of its cell have no value. On a page a click on the legend
    highlights one curve.

    Args:
        frame: one row per cell and step; with a column ``seed``, one per run and step.
        title: what is shown; it is also the title of the vertical axis.
        by: the axis of the colours.
        others: axes whose values have separate panels.
        step: the word for a step.
        size: width and height of a panel in pixels; by default as there is room.
        log: whether the scale of the steps is logarithmic.
    """
    plot = Plot(frame, [by] if by else [], others)
    width, height = size or (plot.width, 220)
    across = alt.Axis(format="~s", title=step, tickCount=max(3, width // 60))
    base = alt.Chart(plot.frame).encode(
        alt.X(
            field="step",
            type="quantitative",
            scale=_across(log),
            axis=across,
        ),
        color=_colour(plot, frame, by),
    )
    if "seed" in frame:
        base = base.encode(detail=alt.Detail(field="seed", type="nominal"))
    centre, low, high = _heights(plot.frame, frame, title, 0.3)
    band = base.mark_area(clip=True, opacity=0.18).encode(low, high)
    part = base.mark_line(clip=True, strokeWidth=1.2, strokeDash=[3, 3]).encode(centre)
    plot.frame["line"] = plot.frame["at"].where(plot.frame["whole"])
    solid = centre.copy()
    solid.field = "line"
    whole = base.mark_line(clip=True, strokeWidth=1.8).encode(solid)
    if by:
        picked = alt.selection_point(fields=[by], bind="legend")
        forward = alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.08))
        part = part.encode(opacity=forward)
        whole = whole.encode(opacity=forward).add_params(picked)
    points = base.mark_point(opacity=0, size=120, clip=True).encode(
        centre, tooltip=plot.tooltip("step", "centre", "low", "high")
    )
    band = band.transform_filter("isValid(datum.low)")
    bands = [band] * bool(plot.frame["bottom"].notna().any())
    broken = [part] * bool(not plot.frame["whole"].all())
    return plot.chart(title, *bands, *broken, whole, points, width=width, height=height)


def spanned(centres: pd.Series) -> tuple[float, float, bool]:
    """The ends of a scale, and whether it is logarithmic.

    If less than a twentieth of the numbers is far above all others, for example because runs
    diverged, the scale ends at the others.
    """
    centres = centres[np.isfinite(centres)]
    least, most = centres.min(), centres.max()
    usual = centres.quantile(0.95)
    if least >= 0 and most > SPAN * usual:
        most = usual
    return least, most, bool(least > 0 and most > SPAN * least)


def _across(log: bool) -> alt.Scale:
    """A horizontal scale of numbers, from the first to the last."""
    return alt.Scale(type="log", nice=False) if log else alt.Scale(nice=False, zero=False)


def _heights(
    into: pd.DataFrame,
    frame: pd.DataFrame,
    title: str,
    beyond: float,
    within: Sequence[float] | None = None,
) -> tuple[alt.Y, alt.Y, alt.Y2]:
    """Encodings of the average and of the two ends of its band, for which it adds columns.

    Values far beyond the scale are drawn just outside of it; the pointer shows the number.

    Args:
        into: the table that is drawn, which gets the columns.
        frame: the averages and bands.
        title: title of the axis.
        beyond: how far bands may widen the scale, relative to the range of the averages.
        within: the ends of the scale, if they are given.
    """
    least, most, log = spanned(pd.Series(within) if within else frame["centre"])
    level, back = (np.log, np.exp) if log else (float, float)
    ends = [level(least), level(most)]
    length = ends[1] - ends[0] or (1.0 if log else abs(most) or 1.0)
    bands = [frame[end][np.isfinite(frame[end])] for end in ("low", "high")]
    lowest, highest = (x[x > 0] if log else x for x in bands)
    if len(lowest) and not within:
        ends[0] = max(min(ends[0], level(lowest.min())), ends[0] - beyond * length)
    if len(highest) and not within:
        ends[1] = min(max(ends[1], level(highest.max())), ends[1] + beyond * length)
    room = 0.06 * length
    scale = alt.Scale(
        type="log" if log else "linear",
        domain=[float(back(ends[0] - room)), float(back(ends[1] + room))],
        nice=False,
    )
    outside = float(back(ends[0] - 2 * room)), float(back(ends[1] + 2 * room))
    for drawn, column in (("at", "centre"), ("bottom", "low"), ("top", "high")):
        into[drawn] = frame[column].clip(*outside)
    axis = alt.Axis(title=title, titleLimit=280, labelExpr=DIGITS)
    middle, bottom = (
        alt.Y(field=field, type="quantitative", scale=scale, axis=axis)
        for field in ("at", "bottom")
    )
    return middle, bottom, alt.Y2(field="top")


def _colour(plot: Plot, frame: pd.DataFrame, by: str | None) -> alt.Color | dict[str, str]:
    """One colour for each value: an optimizer's own colour, or colours along a scale."""
    if by is None:
        return alt.value(COLOUR["laprop"])
    order = plot.order[by]
    few = sum(map(len, order)) < 40  # so few letters have room above the panels
    legend = alt.Legend(
        symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=3, orient="top" if few else "right"
    )
    if by == "optimizer":
        own = {NAMES.get(word, word): colour for word, colour in COLOUR.items()}
        range_ = [own.get(word, SPARE[i % len(SPARE)]) for i, word in enumerate(order)]
        scale = alt.Scale(domain=order, range=range_)
        return alt.Color(field=by, type="nominal", scale=scale, title=None, legend=legend)
    numbers = pd.api.types.is_numeric_dtype(frame[by])
    scale = alt.Scale(scheme="viridis" if numbers else "tableau10")
    kind = "ordinal" if numbers else "nominal"
    return alt.Color(field=by, type=kind, sort=order, scale=scale, title=name(by), legend=legend)
