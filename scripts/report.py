"""Write the results as a static site that opens from disk: ``python -m scripts.report``.

``results/site/`` is made from the committed results: an overview with every verdict, a page for
each figure with its data and its commands, the ledger of disagreements, and the benchmarks. The
pages link to the pictures and tables of ``results/`` and copy none.
"""

import argparse
import math
import os
import re
import shutil
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup, escape

from experiments.common import ROOT
from experiments.common.config import CONFIGS
from experiments.common.records import RESULTS, Results
from scripts import check_claims, make_discrepancies
from scripts.figures import style
from scripts.make_figures import PICTURES
from scripts.paper import drawable, figures, results_of, script

HERE = Path(__file__).parent / "site"
OF = check_claims.OF
SITE = RESULTS / "site"
MAIN = "fig02"  # the overview shows this figure's picture
POINTS = 60  # largest number of points of a curve in a page
NUMBERS = 90_000  # largest number of numbers in all curves of a page, about 600 kB
ROWS = 1_500  # largest number of rows of a table in a page


# Seeds taken together -----------------------------------------------------------------------------


def outcomes(results: Results) -> pd.DataFrame:
    """The runs with a column ``diverged``.

    The figure's script may have a rule for it. Otherwise a run has diverged if it was ended early.
    """
    if hasattr(script(results.figure), "outcomes"):
        return script(results.figure).outcomes(results)
    runs = results.runs
    ended = runs.diverged_at.notna() if "diverged_at" in runs else False
    return runs.assign(diverged=ended)


def axes_of(results: Results) -> list[str]:
    """The axes of the grid without the seed, the optimizer first; their values name a cell."""
    names = [name for name in results.manifest["axes"] if name not in ("optimizer", "seed")]
    return ["optimizer", *names]


def cells(results: Results) -> pd.DataFrame:
    """A row for each cell, indexed by its axes: ``seeds``, ``diverged``, and each metric.

    A metric has the columns ``(metric, "mean")``, ``"std"`` and ``"count"``, over those seeds that
    did not diverge and have a number: a run that never converged has no time of convergence.
    """
    runs, axes = outcomes(results), axes_of(results)
    metrics = [
        name
        for name in results.manifest["summary"]
        if name != "diverged_at" and pd.api.types.is_numeric_dtype(runs[name])
    ]
    # Diverged runs are counted in a column of their own, so their numbers are left out here.
    numbers = runs[metrics].mask(runs.diverged, axis=0)
    by = pd.concat([runs[axes], numbers], axis=1).groupby(axes, sort=False, dropna=False)
    with np.errstate(invalid="ignore"):  # where a bound is infinite, it has no deviation
        table = by[metrics].agg(["mean", "std", "count"])
    groups = runs.groupby(axes, sort=False, dropna=False).diverged
    table["seeds", ""], table["diverged", ""] = groups.size(), groups.sum()
    return table


def metrics_of(table: pd.DataFrame) -> list[str]:
    """The names of the metrics in :func:`cells`, in their order."""
    return [name for name, part in table.columns if part == "mean"]


def value(x: Any) -> str:
    """An axis value as text, which is the same for ``runs.csv`` and for ``curves.parquet``."""
    return f"{x:.7g}" if isinstance(x, float | np.floating) else str(x)


def values_of(column: pd.Series) -> list[str]:
    """The values of an axis as text: numbers are sorted, words stay in the order of the runs."""
    found = column.drop_duplicates()
    return [value(x) for x in (found if column.dtype == object else found.sort_values())]


def keys_of(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """The axis values of each row of :func:`cells`, as text."""
    return [tuple(map(value, key)) for key in table.index.to_frame().itertuples(index=False)]


def number(x: Any) -> str:
    """A measurement rounded for a reader, or a dash where there is none."""
    if pd.isna(x):
        return "–"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if abs(x) >= 10_000:
        return f"{x:,.0f}" if abs(x) < 1e9 else f"{x:.3g}"
    return f"{x:.4g}"


def deviation(x: float) -> str:
    """A standard deviation with two digits."""
    return f"{x:.2g}" if x < 100 else f"{x:,.0f}" if x < 1e9 else f"{x:.1e}"


def spread(cell: pd.Series, metric: str) -> str:
    """Mean and standard deviation, and the number of seeds where it is not all of them."""
    mean, std, count = (cell[metric, part] for part in ("mean", "std", "count"))
    text = number(mean) + (f" ± {deviation(std)}" if np.isfinite(std) else "")
    seeds = cell["seeds", ""]
    return text if count == seeds else f"{text} ({count:.0f} of {seeds:.0f})"


def cell_table(table: pd.DataFrame) -> dict[str, Any]:
    """:func:`cells` as headings and rows of text, and the number of all rows."""
    metrics, axes = metrics_of(table), list(table.index.names)
    counts = ["seeds", "diverged"] if table["diverged", ""].any() else ["seeds"]
    rows = [
        [*key, *(f"{cell[count, '']:.0f}" for count in counts)]
        + [spread(cell, metric) for metric in metrics]
        for key, (_, cell) in zip(keys_of(table.head(ROWS)), table.iterrows(), strict=False)
    ]
    heads = [*axes, *counts, *metrics]
    return {"heads": heads, "rows": rows, "total": len(table), "leading": len(axes)}


# The grid that answers to pointer and keyboard ----------------------------------------------------


def plain(x: Any) -> float | str | None:
    """A number for JSON with four digits; infinity becomes text and NaN becomes None."""
    if pd.isna(x):
        return None
    return number(x) if math.isinf(x) else float(f"{x:.4g}")


def curves(results: Results, axes: list[str], known: set[tuple[str, ...]]) -> dict[str, Any]:
    """The curves of each cell: mean, lowest and highest over its seeds, at POINTS steps at most.

    Args:
        results: of one figure.
        axes: whose values name a cell.
        known: the names of all cells.

    Returns:
        ``metrics`` and ``cells``: key -> {"steps": [...], metric: [means, lowest, highest]}. Empty
        where no curves were kept, or where they do not have the axes.
    """
    if not (results.folder / "curves.parquet").exists():
        return {}
    frame = results.curves
    metrics = [c for c in frame if c not in results.manifest["axes"] and c != "step"]
    by_cell = frame.groupby(axes, sort=False, dropna=False)
    groups = {tuple(map(value, key)): cell for key, cell in by_cell}
    if not metrics or not groups.keys() <= known:
        return {}
    points = min(POINTS, max(2, NUMBERS // (3 * len(groups) * len(metrics))))
    found = {}
    for key, cell in groups.items():
        steps = np.sort(cell.step.unique())
        chosen = steps[np.unique(np.linspace(0, len(steps) - 1, points).round().astype(int))]
        by = cell[cell.step.isin(chosen)].groupby("step")[metrics]
        parts = [by.mean(), by.min(), by.max()]
        found[key] = {"steps": [plain(x) for x in chosen]} | {
            metric: [[plain(x) for x in part[metric]] for part in parts] for metric in metrics
        }
    return {"metrics": metrics, "cells": found}


def grid(results: Results, table: pd.DataFrame) -> dict[str, Any] | None:
    """The data from which ``site.js`` draws a map and its curves; None where nothing varies."""
    axes, keys = list(table.index.names), keys_of(table)
    places = table.index.to_frame(index=False)
    values = {axis: values_of(places[axis]) for axis in axes}
    by = places.groupby("optimizer")
    free = [  # an axis on which each optimizer has one value is left out of the map
        axis
        for axis in axes
        if axis == "optimizer" or (len(values[axis]) > 1 and by[axis].nunique().max() > 1)
    ]
    others = sorted(free[1:], key=lambda axis: (axis == "nu", len(values[axis])))
    metrics = metrics_of(table)
    if not others or not metrics:
        return None
    drawn = curves(results, axes, set(keys))
    entered = []
    for key, (_, cell) in zip(keys, table.iterrows(), strict=True):
        entry = {
            "at": [values[axis].index(key[axes.index(axis)]) for axis in free],
            "seeds": int(cell["seeds", ""]),
            "diverged": int(cell["diverged", ""]),
            "values": [
                [plain(cell[m, "mean"]), plain(cell[m, "std"]), int(cell[m, "count"])]
                for m in metrics
            ],
        }
        if drawn:
            entry["curves"] = drawn["cells"].get(key)
        entered.append(entry)
    return {
        "axes": {axis: values[axis] for axis in free},
        "down": others[-1],
        "across": "mu" if "mu" in others[:-1] else others[-2] if others[1:] else "optimizer",
        "metrics": metrics,
        "curves": drawn.get("metrics", []),
        "cells": entered,
        "names": {name: style.NAME[name] for name in values["optimizer"]},
        "colours": {name: style.COLOUR[name] for name in values["optimizer"]},
    }


# Pages --------------------------------------------------------------------------------------------


def prose(text: str, root: str = "") -> Markup:
    """HTML from the Markdown of claims and ledger: code, bold, links (relative to results/)."""
    html = str(escape(text))
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    html = re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", html)
    html = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", rf'<a href="{root}/\2">\1</a>', html)
    return Markup(html)


def label(name: str) -> str:
    """``fig02`` -> ``Figure 2``, ``rosenbrock_bias`` -> ``rosenbrock bias``."""
    text = re.sub(r"(\d+)$", lambda match: f" {int(match[1])}", name.replace("_", " "))
    return re.sub(r"^fig ", "Figure ", text)


def section(text: str) -> str:
    """Where in the paper: ``5.1`` -> ``§ 5.1``, ``beyond 5.1`` -> ``beyond § 5.1``."""
    return re.sub(r"^(beyond )?(?=[A-Z]?\.?\d)", r"\1§ ", text)


def listed(texts: list[str]) -> str:
    """The values of an axis: all of them if they are few, else the first and the last."""
    many = len(texts) > 12
    return f"{len(texts)} values, {texts[0]} to {texts[-1]}" if many else ", ".join(texts)


def frame_table(path: Path) -> dict[str, Any]:
    """A CSV as headings and rows of text; columns with one value go into the caption."""
    frame = pd.read_csv(path)
    same = [c for c in frame if len(frame) > 1 and frame[c].nunique(dropna=False) == 1]
    shown = frame.drop(columns=same)
    rows = [
        [x if isinstance(x, str) else number(x) for x in row]
        for row in shown.head(ROWS).itertuples(index=False)
    ]
    words = [f"{name} {value(frame[name].iloc[0])}" for name in same]
    return {
        "path": path,
        "heads": list(shown),
        "rows": rows,
        "total": len(frame),
        "leading": 1
        + (list(shown).index("way") if "way" in shown else 0),  # the table of a benchmark
        "same": ", ".join(words),
    }


def grids_of(name: str) -> dict[str, str | None]:
    """The scales of a figure's grid, and what each of them reduces."""
    path = CONFIGS / "figure" / f"{figures()[name].get('results', name)}.yaml"
    if not path.exists():
        return {}
    config = yaml.safe_load(path.read_text())
    reduced = config["figure"].get("reduced") or {}
    return {scale: reduced.get(scale) for scale in config["grids"] if scale != "smoke"}


def provenance(results: Results) -> dict[str, Any]:
    """Settings, axes, machines and times of a figure's runs, from the manifest."""
    manifest = results.manifest
    runs = pd.DataFrame(manifest["runs"])
    constant = {
        name: results.runs[name].iloc[0]
        for name in manifest["summary"]
        if results.runs[name].dtype == object and results.runs[name].nunique() == 1
    }
    axes = {key: listed(values_of(results.runs[name])) for name, key in manifest["axes"].items()}
    places = [
        place | {"runs": sum(i in places for places in runs.environments)}
        for i, place in enumerate(manifest["environments"])
    ]
    return {
        "settings": manifest["settings"],
        "alike": constant,
        "axes": axes,
        "places": places,
        "rows": len(results.runs),
        "statuses": Counter(runs.status),
        "seconds": runs.wall_time_s.sum(),
        "memory": runs.peak_memory_bytes.max(),
        "first": runs.started.min()[:10],
        "last": runs.started.max()[:10],
    }


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(path: Path) -> str:
    """The size of a file in kB or MB."""
    kilobytes = path.stat().st_size / 1000
    if kilobytes >= 1000:
        return f"{kilobytes / 1000:.1f} MB"
    return f"{kilobytes:.0f} kB" if kilobytes >= 10 else f"{kilobytes:.1f} kB"


def counted(claims: list[dict[str, Any]]) -> dict[str, list[tuple[str, int]]]:
    """How many claims of the paper, and of ours, have each verdict, in the legend's order."""
    found = {of: Counter(claim["verdict"] for claim in claims if claim["of"] == of) for of in OF}
    return {of: [(w, n[w]) for w in check_claims.VERDICTS if n[w]] for of, n in found.items()}


def legend(claims: list[dict[str, Any]]) -> list[list[str]]:
    """The rows of the legend of verdicts: the words, and what they mean."""
    rows = check_claims.legend(claims).splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def entries() -> dict[str, dict[str, Any]]:
    """Every figure of ``paper.yaml``, with its results and its picture where there are any."""
    found = {}
    for name, row in figures().items():
        results = results_of(name)
        tables = "tables" in row
        status = "not run" if results is None else "measured" if tables else results.label
        found[name] = (
            dict.fromkeys(("authors", "command", "results", "tables"))
            | row
            | {
                "name": name,
                "label": label(name),
                "runs": None if tables else results,
                "status": status,
                "scale": "not run" if results is None else "-" if tables else results.scale,
                "picture": PICTURES / f"{name}.png" if drawable(name) else None,
            }
        )
    return found


def details(entry: dict[str, Any]) -> dict[str, Any]:
    """What the page of a figure shows beyond its entry."""
    results: Results | None = entry["runs"]
    name = entry["name"]
    more: dict[str, Any] = {"grids": grids_of(name), "config": entry["results"], "tables": []}
    if entry["tables"]:  # tables that no run made: all that lie in the folder
        folder = (RESULTS / entry["tables"]).parent
        more["tables"] = [frame_table(path) for path in sorted(folder.glob("*.csv"))]
    if results is not None:
        table = cells(results)
        files = sorted(p for p in results.folder.iterdir() if p.is_file())
        more |= {
            "table": cell_table(table),
            "grid": grid(results, table),
            "how": provenance(results),
            "files": [p for p in files if p.suffix != ".jpg"],
            "pictures": [p for p in files if p.suffix == ".jpg"],
        }
    return more


def environment(target: Path, root: str) -> jinja2.Environment:
    """The templates of pages in ``target``, from which ``root`` leads to ``results/``."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    templates.filters |= {
        "prose": lambda text: prose(text, root),
        "link": lambda path: Path(os.path.relpath(path, target)).as_posix(),
        "duration": duration,
        "size": size,
        "section": section,
    }
    return templates


def pages(target: Path) -> dict[str, str]:
    """File name -> HTML of every page, with links as they are from ``target``."""
    root = Path(os.path.relpath(RESULTS, target)).as_posix()
    templates = environment(target, root)
    every, claims = entries(), check_claims.rows()
    for claim in claims:
        claim["scale"] = every[claim["figure"]]["scale"]
    shared = {"figures": every, "claims": claims, "root": root}
    written = {
        "index.html": templates.get_template("index.html").render(
            shared,
            main=every[MAIN],
            counts=counted(claims),
            titles=check_claims.OF,
            legend=legend(claims),
        )
    }
    introduction = make_discrepancies.INTRODUCTION.format(
        control=make_discrepancies.measured("discrepancies.controls")
    )
    written["ledger.html"] = templates.get_template("ledger.html").render(
        shared,
        introduction=introduction.split("\n\n")[1:],
        groups=[
            (group, list(rows))
            for group, rows in groupby(make_discrepancies.rows(), key=lambda row: row["group"])
        ],
    )
    template = templates.get_template("figure.html")
    for name, entry in every.items():
        written[f"{name}.html"] = template.render(shared, figure=entry, **details(entry))
    return written


def build(target: Path) -> list[Path]:
    """Write the site into a folder.

    Returns:
        the pages.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in ("site.css", "site.js"):
        shutil.copy(HERE / name, target / name)
    written = {target / name: html for name, html in pages(target).items()}
    for path, html in written.items():
        path.write_text(html, encoding="utf-8")
    return list(written)


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--to", type=Path, default=SITE, help="folder of the site")
    target = parser.parse_args().to.resolve()
    written = build(target)
    index = target / "index.html"
    shown = index.relative_to(ROOT) if index.is_relative_to(ROOT) else index
    print(f"{len(written)} pages; open {shown}")


if __name__ == "__main__":
    main()
