"""Write the results as a static site that opens from disk: ``python -m scripts.build report``.

``results/site/`` is made from the committed results. It has a front page with every verdict, a page
for each figure with its charts, data and commands, the list of discrepancies, the benchmarks, the
texts of ``docs/``, and the reference of the package in ``api/``. The pages link to the pictures and
tables of ``results/``, and do not copy them. ``python -m scripts.report --to FOLDER`` writes the
same into another folder.
"""

import argparse
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common import RESULTS, ROOT
from experiments.common.files import write
from experiments.common.records import Results
from experiments.common.terminal import as_command
from experiments.common.timings import grids, reduced
from scripts import (
    cells,
    charts,
    check_claims,
    discrepancies,
    effects,
    explore,
    readme,
    reference,
    words,
)
from scripts.make_figures import PICTURES
from scripts.pages import HERE, environment, guides, heading, markdown
from scripts.pages import readme as section_of_readme
from scripts.paper import drawable, figures, finding, results_of

OF = check_claims.OF
SITE = RESULTS / "site"
ROWS = 1_500  # largest number of rows of a table in a page


# The data of a page -------------------------------------------------------------------------------


def cell_table(results: Results) -> dict[str, Any]:
    """The table of all metrics of every cell: headings, rows of text, and the total of rows."""
    runs = explore.outcomes(results.figure, results.every_run)
    by = cells.free(runs, list(results.manifest["axes"]))
    measured = [name for name in results.manifest["summary"] if name != "diverged_at"]
    names = [name for name in measured if pd.api.types.is_numeric_dtype(runs[name])]
    table = cells.readable(cells.cells(runs, by, names, runs.diverged), by)
    return {
        "heads": [words.name(column) for column in table],
        "rows": table.head(ROWS).to_numpy().tolist(),
        "total": len(table),
        "leading": len(by),
        "medians": [words.name(name) for name in names if cells.usual(name) == "median"],
    }


def frame_table(path: Path) -> dict[str, Any]:
    """A CSV file as headings and rows of text; columns with one value go into the caption."""
    frame = pd.read_csv(path)
    same = [c for c in frame if len(frame) > 1 and frame[c].nunique(dropna=False) == 1]
    shown = frame.drop(columns=same)
    rows = [
        [x if isinstance(x, str) else words.number(x) for x in row]
        for row in shown.head(ROWS).itertuples(index=False)
    ]
    constant = [f"{words.name(name)} {words.value(frame[name].iloc[0])}" for name in same]
    return {
        "path": path,
        "heads": [words.name(column) for column in shown],
        "rows": rows,
        "total": len(frame),
        # The table of a benchmark has columns before `way` that name a row too.
        "leading": 1 + (list(shown).index("way") if "way" in shown else 0),
        "same": ", ".join(constant),
    }


def grids_of(name: str) -> dict[str, str | None]:
    """The scales of a figure's grid, and what each of them reduces, in words."""
    source = figures()[name].get("results", name)
    said = reduced(source)
    return {scale: said.get(scale) for scale in grids(source) if scale != "smoke"}


def provenance(results: Results) -> dict[str, Any]:
    """Settings, axes, machines and times of a figure's runs, from the manifest."""
    manifest = results.manifest
    runs = pd.DataFrame(manifest["runs"])
    constant = {
        name: results.runs[name].iloc[0]
        for name in manifest["summary"]
        if results.runs[name].dtype == object and results.runs[name].nunique() == 1
    }
    every = results.every_run
    axes = {key: words.listed(every[name]) for name, key in manifest["axes"].items()}
    places = [
        place | {"runs": sum(i in places for places in runs.environments)}
        for i, place in enumerate(manifest["environments"])
    ]
    return {
        "settings": manifest["settings"],
        "alike": constant,
        "axes": axes,
        "places": places,
        "rows": len(every),
        "incomplete": len(every) - len(results.runs),
        "statuses": Counter(runs.status),
        "seconds": runs.wall_time_s.sum(),
        "memory": runs.peak_memory_bytes.max(),
        "first": runs.started.min()[:10],
        "last": runs.started.max()[:10],
    }


def pictures(results: Results) -> list[tuple[Path, str]]:
    """The pictures of runs, each with the run's own settings: ``breakout of Adam, ε 1e-8``."""
    every = {run["key"]: rows for run, rows in results.by_run}
    names = [*cells.free(results.every_run, list(results.manifest["axes"])), "seed"]
    found = []
    for path in sorted(results.folder.glob("*.jpg")):
        key, _, what = path.stem.partition("-")
        own = every[key]
        settings = [words.value(own.optimizer.iloc[0])] + [
            f"{words.name(axis)} {words.listed(own[axis])}"
            for axis in dict.fromkeys(names)
            if axis != "optimizer" and own[axis].notna().any()
        ]
        between = "; " if any("," in text for text in settings) else ", "
        found.append((path, f"{words.value(what)} of {between.join(settings)}"))
    return found


def untested(claims: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The undecided claims of the paper, by the reason."""
    open_ = [claim for claim in claims if claim["of"] == "paper"]
    reasons = {
        "Not run": [c for c in open_ if c["kind"] == check_claims.NOT_RUN],
        "The runs allow both answers": [c for c in open_ if c["held"] is None],
    }
    return {reason: found for reason, found in reasons.items() if found}


def entries() -> dict[str, dict[str, Any]]:
    """Every figure of ``paper.yaml``, with its results and its picture if they exist."""
    found = {}
    for name, row in figures().items():
        results = results_of(name)
        tables = "tables" in row
        status = "not run" if results is None else "measured" if tables else results.label
        found[name] = (
            dict.fromkeys(("authors", "beside", "command", "removed", "results", "tables"))
            | row
            | {
                "name": name,
                "label": words.label(name),
                "runs": None if tables else results,
                "status": status,
                "scale": "not run" if results is None else "-" if tables else results.scale,
                "first_runs": check_claims.first_runs(name),
                "picture": PICTURES / f"{name}.png" if drawable(name) else None,
            }
        )
    return found


def part(results: Results, figure: str) -> dict[str, Any]:
    """The data of a page about the runs of one figure."""
    return {
        "figure": figure,
        "results": results,
        "charts": explore.of(results, figure),
        "table": cell_table(results),
        "how": provenance(results),
        "files": sorted(p for p in results.folder.iterdir() if p.is_file() and p.suffix != ".jpg"),
        "pictures": pictures(results),
    }


def details(entry: dict[str, Any]) -> dict[str, Any]:
    """The data of a figure's page beyond its entry; ``parts`` has one for each set of runs."""
    shown = [entry["name"], *[entry["beside"]] * bool(entry["beside"])]
    tables = []
    if entry["tables"]:  # the tables are not from runs: take all in the folder
        tables = [frame_table(p) for p in sorted((RESULTS / entry["tables"]).parent.glob("*.csv"))]
    found = {name: results_of(name) for name in shown if not entry["tables"]}
    return {
        "grids": {name: grids_of(name) for name in shown},
        "config": entry["results"],
        "tables": tables,
        "parts": [part(results, name) for name, results in found.items() if results is not None],
    }


# Pages --------------------------------------------------------------------------------------------


def front(target: Path, every: dict[str, Any], claims: list[dict[str, Any]]) -> dict[str, Any]:
    """The data of the front page beyond those that all pages share."""
    findings = [
        {
            "figure": every[name],
            "says": finding(name),
            "chart": explore.finding(name),
        }
        for name in readme.FOUND
    ]
    return {
        "introduction": markdown(section_of_readme(), ROOT, target),
        "advice": markdown(section_of_readme("Should I use it?"), ROOT, target),
        "headline": markdown(section_of_readme("What we found").split("\n\n")[0], ROOT, target),
        "findings": findings,
        "by_figure": [(name, list(rows)) for name, rows in groupby(claims, lambda c: c["figure"])],
        "by_verdict": check_claims.by_verdict(claims),
        "titles": OF,
        "legend": check_claims.legend(claims),
        "untested": untested(claims),
        "repository": ROOT,
        "guides": {name: heading(path) for name, path in guides().items()},
    }


def pages(target: Path) -> dict[str, str]:
    """File name -> HTML of every page, with links relative to ``target``."""
    templates = environment(target)
    every, claims = entries(), check_claims.rows()
    for claim in claims:
        claim["scale"] = every[claim["figure"]]["scale"]
        claim["effects"] = effects.placed(claim["effects"])
    listed = discrepancies.rows()
    shared = {
        "figures": every,
        "claims": claims,
        "discrepancies": listed,
        "results_folder": RESULTS,
    }
    written = {
        "index.html": templates.get_template("index.html").render(
            shared, **front(target, every, claims)
        )
    }
    _, _, introduction = discrepancies.introduction(str).partition("\n\n")  # without its heading
    written["discrepancy_list.html"] = templates.get_template("discrepancy_list.html").render(
        shared,
        introduction=markdown(introduction, RESULTS, target),
        labels=discrepancies.LABELS,
        groups=[(g, list(rows)) for g, rows in groupby(listed, key=lambda row: row["group"])],
    )
    template = templates.get_template("guide.html")
    for name, path in guides().items():
        text = markdown(path.read_text(), path.parent, target)
        written[name] = template.render(shared, title=heading(path), text=text)
    template = templates.get_template("figure.html")
    for name, entry in every.items():
        written[f"{name}.html"] = template.render(shared, figure=entry, **details(entry))
    return written


def build(target: Path) -> None:
    """Write the site into a folder, and print its first page."""
    target.mkdir(parents=True, exist_ok=True)
    written = {target / name: html for name, html in pages(target).items()}
    for name in ("site.css", "site.js"):
        write(target / name, (HERE / name).read_bytes())
    write(target / "vega.js", charts.library().encode())
    for path, html in written.items():
        write(path, html.encode())
    reference.write(target / "api")
    index = target / "index.html"
    shown = index.relative_to(ROOT) if index.is_relative_to(ROOT) else index
    print(f"{len(written)} pages; open {shown}")


def main() -> int:
    """Write the site into another folder."""
    parser = argparse.ArgumentParser(prog="python -m scripts.report", description=main.__doc__)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    build(parser.parse_args().to.resolve())
    return 0


if __name__ == "__main__":
    as_command(main)
