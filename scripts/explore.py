"""The charts of the pages, which ``scripts/site/charts.yaml`` defines, drawn from the results."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt
import pandas as pd
import yaml

from experiments.common.records import Results
from scripts import cells, charts, make_authors, words
from scripts.paper import HERE, results_of, script

SMALL = (250, 150)  # width and height in pixels of a finding's plot
POINTS = 60  # largest number of points of a curve on a page
AVERAGE = {
    "mean": "Mean over seeds",
    "geometric mean": "Geometric mean over seeds",
    "median": "Median over all seeds",
    "every seed": "A line for every run",
}
BAND = {"interval": "95 % interval", "range": "range of the seeds"}
Entry = Mapping[str, Any]


@cache
def entries(part: str) -> dict[str, Any]:
    """``figures`` or ``findings`` of the file."""
    return dict(yaml.safe_load((HERE / "site" / "charts.yaml").read_text())[part])


def outcomes(figure: str, runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of a figure with a column ``diverged``.

    The figure's script may have a rule for it. Otherwise a run has diverged if it was ended early.
    """
    if hasattr(script(figure), "outcomes"):
        return script(figure).outcomes(runs)
    return runs.assign(diverged=cells.ended(runs))


@dataclass(frozen=True)
class Drawing:
    """A chart, its name in a list of charts, and how its seeds were averaged, in words."""

    name: str
    chart: alt.Chart
    said: str


def of(results: Results, figure: str) -> list[Drawing]:
    """The charts of a figure's page; the first one shows the same as its picture.

    Raises:
        ValueError: an entry would average over settings other than the seed.
    """
    return [
        Drawing(_name(one), _drawn(_rows(results, one, figure), one, figure), _said(one, figure))
        for one in entries("figures").get(figure) or usual(results)
    ]


def finding(figure: str) -> alt.Chart:
    """The small plot of a finding on the front page."""
    entry, results = entries("findings")[figure], results_of(figure)
    if "authors" in entry:
        frame = make_authors.load(entry["authors"]).rename(columns={"update": "step"})
        frame = frame.query(entry["where"]).assign(seed=0)
    elif "table" in entry:
        seeds = getattr(script(figure), entry["table"])(results)
        frame = pd.concat(
            pd.DataFrame({"optimizer": optimizer, "seed": errors.index, entry["of"]: errors})
            for optimizer, (_, errors) in seeds.items()
        )
    else:
        assert results is not None, figure
        frame = _rows(results, entry, figure)
    return _drawn(frame, entry, figure, SMALL).properties(title="")


def usual(results: Results) -> list[dict[str, Any]]:
    """The charts of a figure without an entry: its first metric, and its first curve."""
    axes = list(results.manifest["axes"])
    free = cells.free(results.runs, axes)
    settings = sorted(free, key=lambda axis: {"mu": -2, "nu": -1, "optimizer": 1}.get(axis, 0))
    across = next(iter(settings), None)  # None: only seeds vary, so there is one cell
    colour = "optimizer" if "optimizer" in free else next(reversed(settings), None)
    panels = [axis for axis in free if axis not in (across, colour)]
    by = None if colour == across else colour
    chosen = [
        {"draw": "lines", "of": name, "x": across, "by": by, "panels": panels}
        for name in cells.metrics(results.runs, axes)[:1]
        if across is not None
    ]
    if (results.folder / "curves.parquet").exists():
        panels = [axis for axis in free if axis != colour]
        chosen += [
            {"draw": "curves", "of": name, "by": colour, "panels": panels}
            for name in cells.metrics(results.curves, axes)[:1]
        ]
    return chosen


def _name(entry: Entry) -> str:
    """The name of a chart in a list: ``test accuracy, % over µ and ν``."""
    title = entry.get("title", words.name(entry["of"]))
    if entry["draw"] == "curves":
        return f"{title} against {entry.get('step', 'step')}"
    if entry["draw"] == "lines":
        return f"{title} against {words.name(entry['x'])}"
    return f"{title} over {words.name(entry['x'])} and {words.name(entry['y'])}"


def _constant(name: str, figure: str) -> Any:
    """The constant ``SIGMA`` of this figure's script, or ``fig05.SIGMA`` of another figure's."""
    file, _, constant = name.rpartition(".")
    return getattr(script(file or figure), constant)


def _rows(results: Results, entry: Entry, figure: str) -> pd.DataFrame:
    """The rows of runs.csv or curves.parquet that an entry selects."""
    frame = results.curves if entry["draw"] == "curves" else outcomes(results.figure, results.runs)
    if "where" in entry:
        known = vars(script(figure)) | {"results": results}
        frame = frame.query(entry["where"], local_dict=known)
    return frame


def _drawn(
    frame: pd.DataFrame, entry: Entry, figure: str, size: tuple[int, int] | None = None
) -> alt.Chart:
    """The chart of an entry, averaged over seeds.

    Args:
        frame: the rows to draw.
        entry: the entry of charts.yaml.
        figure: name of the figure, in whose script the named constants are.
        size: width and height of a panel; by default as there is room.
    """
    metric, draw = entry["of"], entry["draw"]
    curve, average = draw == "curves", entry.get("average", cells.usual(entry["of"]))
    panels = entry.get("panels", [])
    by = [*panels, *(entry[k] for k in ("x", "y", "by") if entry.get(k))]
    by = list(dict.fromkeys(by))
    run = [*by, "seed"]
    if frame.duplicated([*run, *["step"] * curve]).any():
        text = f"rows differ in more than {', '.join(run)}; name the other axes, too"
        raise ValueError(f"scripts/site/charts.yaml, {figure}: {text}")
    for axis, constant in entry.get("names", {}).items():
        frame = frame.assign(**{axis: frame[axis].map(_constant(constant, figure))})
    frame = frame.assign(**{metric: frame[metric] * entry.get("times", 1)})
    if not curve:
        diverged = frame.diverged if "diverged" in frame else None
        table = cells.cells(frame, by, [metric], diverged, average)
    else:
        frame = frame[frame[metric].notna()].sort_values("step")
        if "smooth" in entry:
            frame = cells.smoothed(frame, metric, run, _constant(entry["smooth"], figure))
        if average == "every seed":
            shown = cells.thinned(frame, run, POINTS)
            ends = {"low": float("nan"), "high": float("nan"), "count": 1}
            table = shown[[*run, "step"]].assign(centre=shown[metric], **ends)
        else:
            shown, band = cells.thinned(frame, by, POINTS), entry.get("band", "interval")
            table = cells.summarised(shown, [*by, "step"], [metric], average, band)
    if "apart" in entry:
        table["apart"] = table.index.isin(table.query(entry["apart"]["where"]).index)
    title, step = entry.get("title", words.name(metric)), entry.get("step", "step")
    if draw == "grid":
        return charts.grid(table, title, entry["x"], entry["y"], panels)
    if draw == "lines":
        within = entry.get("within")
        return charts.lines(table, title, entry["x"], entry.get("by"), panels, size, within)
    return charts.curves(table, title, entry["by"], panels, step, size, entry.get("log", False))


def _said(entry: Entry, figure: str) -> str:
    """How seeds were averaged, and what the marks mean, in words."""
    average = entry.get("average", cells.usual(entry["of"]))
    parts = [AVERAGE[average]]
    if average != "every seed":
        parts.append(BAND[entry.get("band", "interval")])
    if average == "median":
        parts.append("a seed without a number counts as infinite")
    if "smooth" in entry:
        parts.append(f"smoothed by a Gaussian of {_constant(entry['smooth'], figure)} points")
    if entry["draw"] == "lines":
        parts.append("× at the top: no finite value")
    if average != "every seed":
        marked = {"grid": "“2 of 3” in a cell", "lines": "hollow", "curves": "dashed"}
        parts.append(f"{marked[entry['draw']]}: not all seeds have a number")
    if "apart" in entry:
        parts.append(_constant(entry["apart"]["why"], figure))
    return "; ".join(parts) + "."
