"""Show a sweep's results as tables, maps and curves.

``python -m scripts.sweep outputs/mnist_divergence`` reads what the runs of a folder wrote, also
while the sweep is running. It writes to ``sweeps/<the sweep>`` beside the folder of runs, for
tables and figures to ``outputs/sweeps/<the sweep>``, or to the folder that ``--to`` names:

======================  ==========================================================================
``index.html``          everything on one page that opens from disk; the pointer shows numbers
``table.md``            one row per cell: number of seeds, and each metric with its interval
``table.csv``           the same, with the ends of the interval in columns of their own
``map-<metric>.png``    mu against nu, or ``--x`` against ``--y``, for each optimizer
``curves-<metric>.png`` a logged metric against the step
======================  ==========================================================================

A number is the mean over seeds with Student's t interval, 95 %. If a run may never reach what is
measured, as in steps to converge, it is the median of all seeds. A metric that is logged but not in
the summary of runs is represented in tables and maps by its last value, which may be null.
"""

import argparse
import io
import re
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd
import yaml

from experiments.common import files, records
from experiments.common.messages import ConfigError, shown, unknown
from experiments.common.records import Results
from experiments.common.tables import DEFINITION
from experiments.common.terminal import as_command
from scripts import charts, words
from scripts.cells import cells, free, metrics, readable, summarised, thinned
from scripts.pages import environment
from scripts.sweep_tables import Tables, chosen_rows, have, read

ROWS = 40  # largest number of rows of the table on the terminal


def find(place: str, wanted: dict[str, list[Any]]) -> Tables:
    """The tables of a folder of runs, of a folder of tables, or of a figure by its name.

    Args:
        place: a folder such as ``outputs/mnist_divergence`` or ``results/fig12/short``, the name of
            a task with runs in ``outputs``, or the name of a figure in ``results``.
        wanted: the settings to keep, see :func:`scripts.sweep_tables.read`.

    Raises:
        ConfigError: the place contains neither runs nor tables.
    """
    folder = Path(place)
    places = folder, Path("outputs") / place
    for other in places:
        if holds_runs(other):
            return read(other, wanted)
    results = Results(folder) if (folder / "runs.csv").exists() else records.load(place)
    if results is not None:
        return collected(results, wanted)
    below = sorted({path.parent.parent.name for path in folder.glob("*/*/config.yaml")})
    hint = f"; it holds those of {', '.join(below)}: give one of these folders" if below else ""
    tried = [folder, *([] if folder.is_absolute() else [places[1], records.RESULTS / place])]
    if not any(path.exists() for path in tried):
        hint = f"; there is no {' and no '.join(map(str, tried))}"
    raise ConfigError(f"{place}: no folder of runs, as outputs/TASK, nor of tables{hint}")


def holds_runs(folder: Path) -> bool:
    """Whether the folders in this one are those of runs, and not of tables."""
    return any(folder.glob("*/manifest.json")) and not any(folder.glob("*/runs.csv"))


def collected(results: Results, wanted: dict[str, list[Any]]) -> Tables:
    """The sweep in collected tables.

    Raises:
        ConfigError: no run has the wanted settings, or a key does not vary.
    """
    with files.reading(results.folder / "manifest.json", files.RESTORE):
        manifest, folder = results.manifest, results.folder.resolve()
        axes, scale, made = dict(manifest["axes"]), results.scale, manifest["runs"]
        whole = folder.parent.name == manifest["figure"]  # as in results/FIGURE/SCALE
        name = manifest["figure"] if whole else f"{manifest['task']} {folder.name}"
        shared = {k: v for k, v in manifest["settings"].items() if k != DEFINITION}
        statuses = Counter(str(run["status"]) for run in made)
        versions = len({str(run.get("versions")) for run in made})
    runs = results.runs
    has_curves = (results.folder / "curves.parquet").exists()
    curves = results.curves if has_curves else pd.DataFrame(columns=[*axes, "step"])
    columns = {axis(key, axes): values for key, values in wanted.items()}
    runs = runs[chosen_rows(runs, columns, results.folder)]
    for column, values in columns.items():
        curves = curves[have(curves[column], values).any(axis=1)]
    return Tables(name, runs, curves, axes, statuses, [], scale, versions, shared=shared)


def axis(name: str, axes: dict[str, str], flag: str = "") -> str:
    """The column of an axis with this name or dotted key.

    Raises:
        ConfigError: no axis has it; the line begins with the flag that asked for it.
    """
    for column, key in axes.items():
        if name in (column, key):
            return column
    others = f"{', '.join(axes) or 'nothing'} {'do' if len(axes) > 1 else 'does'}"
    raise ConfigError(f"{flag}{name}: does not vary here; {others}")


# Numbers ------------------------------------------------------------------------------------------


def varied(tables: Tables) -> list[str]:
    """The axes that distinguish cells, the optimizer first."""
    return free(tables.runs if len(tables.runs) else tables.curves, list(tables.axes))


def summary(tables: Tables, by: list[str]) -> pd.DataFrame:
    """The cells of the finished runs, see :func:`scripts.cells.cells`, sorted by their axes."""
    table = cells(tables.runs, by, metrics(tables.runs, list(tables.axes)))
    return table.sort_values(by, key=charts.rank, kind="stable") if by else table


def markdown(table: pd.DataFrame) -> str:
    """A table of text in Markdown."""
    rows = [list(table), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def spread(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """One row per cell with the columns ``<metric>``, ``<metric>_low``, ``_high``, ``_count``."""
    index = [*by, "seeds", "diverged"]
    parts = {"centre": "", "low": "_low", "high": "_high", "count": "_count"}
    wide = table.set_index([*index, "metric"])[list(parts)].unstack("metric", sort=False)
    order = [(part, name) for name in dict.fromkeys(table.metric) for part in parts]
    wide = wide[order]
    wide.columns = [f"{name}{parts[part]}" for part, name in wide.columns]
    return wide.reset_index()


# Pictures -----------------------------------------------------------------------------------------


class Axes(NamedTuple):
    """The columns for x and y of a map and for the colour of curves; None where nothing varies."""

    x: str | None
    y: str | None
    colour: str | None


def axes_of(tables: Tables, chosen: argparse.Namespace) -> Axes:
    """The axes that the command line asks for, by default mu and nu.

    Raises:
        ConfigError: an axis of the command line does not vary, or x and y are the same.
    """
    by = varied(tables)
    settings = [setting for setting in by if setting != "optimizer"]
    usual = sorted(settings, key=lambda n: ({"mu": 0, "nu": 1}.get(n, 2), settings.index(n)))
    axes = {column: tables.axes[column] for column in by}
    x = axis(chosen.x, axes, "--x=") if chosen.x else None
    y = axis(chosen.y, axes, "--y=") if chosen.y else None
    if x and x == y:
        raise ConfigError(f"--y={chosen.y}: must be another setting than --x")
    x = x or next((setting for setting in [*usual, *by] if setting != y), None)
    y = y or next((setting for setting in usual if setting != x), None)
    return Axes(x, y, axis(chosen.by, axes, "--by=") if chosen.by else y or x)


def drawn(
    tables: Tables, table: pd.DataFrame, axes: Axes, chosen: argparse.Namespace
) -> dict[str, Any]:
    """Every chart by the name of its file: maps of the table, and curves."""
    by, (x, y, colour) = varied(tables), axes
    found: dict[str, Any] = {}
    mapped = table[np.isfinite(table.centre)].metric if x else []  # one cell alone has no map
    for metric in dict.fromkeys(mapped):
        part = table[table.metric == metric]
        if x is not None and y is not None:
            others = [setting for setting in by if setting not in (x, y)]
            found[f"map-{metric}"] = charts.grid(part, words.name(metric), x, y, others)
        elif x is not None:
            line = "optimizer" if "optimizer" in by and x != "optimizer" else None
            found[f"map-{metric}"] = charts.lines(part, words.name(metric), x, line, [])
    names = [metric for metric in metrics(tables.curves, tables.axes) if wanted(metric, chosen)]
    if len(tables.curves) and names:
        long = summarised(thinned(tables.curves, by), [*by, "step"], names)
        others = [setting for setting in by if setting != colour]
        for metric in names:
            part = long[(long.metric == metric) & long.centre.notna()]
            if part.step.nunique() > 1:
                found[f"curves-{metric}"] = charts.curves(
                    part, words.name(metric), colour if colour in by else None, others
                )
    return found


def wanted(metric: str, chosen: argparse.Namespace) -> bool:
    """Whether the command line asks for a metric; without ``--metric`` it asks for all."""
    return not chosen.metric or metric in chosen.metric


def page(
    title: str,
    facts: list[str],
    table: pd.DataFrame,
    by: list[str],
    drawings: dict[str, Any],
    shared: dict[str, Any],
) -> str:
    """The HTML of the page, which contains the library that draws the charts."""
    data = {
        "heads": list(table),
        "rows": table.to_numpy().tolist(),
        "total": len(table),
        "leading": len(by),
    }
    return (
        environment(Path())
        .get_template("sweep.html")
        .render(
            title=title,
            facts=facts,
            table=data,
            charts=list(drawings.values()),
            shared=[f"{key}={shown(value)}" for key, value in sorted(shared.items())],
            library=charts.library(),
        )
    )


# The command --------------------------------------------------------------------------------------


def values(text: str) -> tuple[str, list[Any]]:
    """The key and the values of ``optimizer.nu=0.9,0.99``."""
    key, equals, given = text.partition("=")
    parts = re.split(r",(?![^\[]*\])", given)
    if not equals or not key or not all(parts):
        raise ConfigError(f"{text}: not KEY=VALUE or KEY=VALUE,VALUE")
    return key, [_value(part, text) for part in parts]


def _value(part: str, text: str) -> Any:
    for number in (int, float):  # YAML would read 1e-3 as text
        with suppress(ValueError):
            return number(part)
    try:
        return yaml.safe_load(part)
    except yaml.YAMLError:
        raise ConfigError(f"{text}: {part} is no value") from None


def write(tables: Tables, title: str, target: Path, chosen: argparse.Namespace) -> list[str]:
    """Write everything to a folder, and return the lines to print."""
    by = varied(tables)
    facts = [", ".join(f"{n} {status}" for status, n in sorted(tables.statuses.items()))]
    if tables.versions > 1:
        facts.append(f"made by {tables.versions} versions of the task's program")
    if tables.repeated:
        facts.append(f"{tables.repeated} repeated and left out, as newer ones have their settings")
    if tables.damaged:
        facts.append(f"{len(tables.damaged)} damaged and left out")
    table = summary(tables, by) if len(tables.runs) else pd.DataFrame()
    if table.empty:  # no run is finished, or none has a number
        table = pd.DataFrame(columns=["metric", "centre"], dtype=float)
    every = list(dict.fromkeys([*table.metric, *metrics(tables.curves, tables.axes)]))
    for metric in chosen.metric or ():
        if metric not in every:
            raise unknown("--metric", metric, metric, every)
    table = table[table.metric.isin([metric for metric in every if wanted(metric, chosen)])]
    if table.empty and tables.curves.empty:
        raise ConfigError(f"{title}: nothing is finished or logged yet ({facts[0]})")
    axes = axes_of(tables, chosen)
    target.mkdir(parents=True, exist_ok=True)  # may fail, so before the charts, which take longest
    alt.data_transformers.disable_max_rows()
    drawings = drawn(tables, table, axes, chosen)
    text = readable(table, by) if len(table) else pd.DataFrame()
    written: dict[str, bytes] = {}
    if len(table):
        written["table.md"] = markdown(text).encode()
        csv = spread(table, by).to_csv(index=False, float_format="%.7g")
        written["table.csv"] = csv.encode()
    for file, chart in drawings.items():
        picture = io.BytesIO()
        chart.save(picture, format="png", scale_factor=2)
        written[f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', file)}.png"] = picture.getvalue()
    written["index.html"] = page(title, facts, text, by, drawings, tables.shared).encode()
    for file, content in written.items():
        files.write(target / file, content)
    if not chosen.to:  # a folder of the user's may have files of such names that are not ours
        for pattern in ("table.*", "map-*.png", "curves-*.png"):  # an earlier call wrote them
            for old in target.glob(pattern):
                if old.name not in written:
                    old.unlink()
    lines = [f"{title}: {'; '.join(facts)}"]
    if len(text) > ROWS:
        lines.append(f"{len(text)} rows, see table.md")
    elif len(text):
        lines.append(markdown(text).rstrip())
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the runs, write tables and pictures, and return the exit status.

    Args:
        arguments: those of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scripts.sweep", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument(
        "place", help="folder of runs (outputs/TASK) or of tables (results/...), or a name of one"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE,VALUE", help="only runs with these settings"
    )
    parser.add_argument("--metric", action="append", help="only this metric; may be repeated")
    parser.add_argument("--x", metavar="KEY", help="horizontal axis of maps; mu by default")
    parser.add_argument("--y", metavar="KEY", help="vertical axis of maps; nu by default")
    parser.add_argument("--by", metavar="KEY", help="the colour of curves; as --y by default")
    parser.add_argument("--to", type=Path, help="another folder to write to")
    chosen = parser.parse_intermixed_args(arguments)
    tables = find(chosen.place, dict(map(values, chosen.settings)))
    title = " ".join([tables.name, tables.scale, *chosen.settings])
    place = Path(chosen.place)
    outputs = place.absolute().parent if holds_runs(place) else Path("outputs")
    target = chosen.to or outputs / "sweeps" / re.sub(r"[^\w=,.+-]+", "_", title)[:100]
    for text in tables.damaged:
        print(f"damaged: {text}", file=sys.stderr)
    print("\n".join(write(tables, title, target, chosen)))
    print(f"open {target / 'index.html'}")
    return 0


if __name__ == "__main__":
    as_command(main)
