"""Redraw every figure from the committed results: ``python -m scripts.make_figures [fig02 ...]``.

It writes ``results/figures/<name>.png`` and the index of figures, ``results/FIGURES.md``.
``--check`` writes nothing, and exits with 1 if a committed picture or the index is stale.

``--from FOLDER`` draws a figure from your own tables, as ``scripts.collect`` writes them, into the
same folder. A part that shows another figure's runs comes from the committed results.
"""

import argparse
import io
import json
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from experiments.common import RESULTS, data
from experiments.common.collect import labels
from experiments.common.config import expand
from experiments.common.files import RESTORE, reading
from experiments.common.messages import ConfigError, named, shown
from experiments.common.plan import needed
from experiments.common.records import Results
from experiments.common.settings import Settings
from experiments.common.tables import described, rows, varying
from experiments.common.terminal import as_command
from experiments.common.timings import COMMITTED, grids, times
from scripts import check_claims, readme
from scripts.figures import style
from scripts.generated import settle
from scripts.paper import drawable, drawn, figures, finding, label, results_of, script

PICTURES = RESULTS / "figures"


def picture(name: str, own: Results | None = None) -> bytes | None:
    """The PNG of a figure with its finding above it, or None if there is nothing to draw yet.

    Args:
        name: name of the figure.
        own: results to draw in place of the committed ones.

    Raises:
        ConfigError: its script cannot draw these results of one's own.
    """
    if own is None:
        return _picture(name, results_of(name)) if drawable(name) else None
    try:
        return _picture(name, own)
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:  # of too few seeds
        raise ConfigError(
            f"{own.folder}: {name} cannot be drawn from {own.seeds} ({named(error)})"
        ) from error


def _picture(name: str, results: Results | None) -> bytes:
    style.use()
    figure = script(name).draw(results)
    title = finding(name, results), verdicts(name, results)
    strip = style.headline(figure.get_figwidth(), *title)
    parts = [_pixels(part) for part in (strip, figure)]
    plt.close(figure)
    whole = Image.new("RGB", (parts[1].width, sum(part.height for part in parts)), "white")
    whole.paste(parts[0])
    whole.paste(parts[1], (0, parts[0].height))
    buffer = io.BytesIO()
    whole.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _pixels(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def verdicts(name: str, results: Results | None = None) -> str:
    """The numbers of the claims that a figure decides, by verdict, as text; see ``shown``."""
    rows = readme.shown(check_claims.rows(name, results))
    words = Counter(row["verdict"] for row in rows)
    by_kind: dict[str, list[str]] = {}
    for word, count in words.items():
        kind, _, what = word.rpartition(": ")
        by_kind.setdefault(kind, []).append(f"{count} {what}")
    parts = [f"{kind}: " * bool(kind) + ", ".join(counts) for kind, counts in by_kind.items()]
    whose = "claims of the paper" if any(row["of"] == "paper" for row in rows) else "our claims"
    return f"{whose}: {'; '.join(parts)}" if parts else ""


def index() -> str:
    """The table of all figures: what each shows, and at which scale it was run."""
    lines = [
        "# Figures",
        "",
        "Written by `make figures`. Scale `paper` is what the paper ran or, where the paper has",
        "a statement and no experiment, the setting of ours that the row names. `short` is the",
        "paper's setting cut short, `small` a smaller model. The brackets say how they differ",
        'from the paper: "3 seeds instead of 5" means that the paper, or our grid for its',
        "setting, has 5 seeds. Time is what all runs of a scale took on two threads; each run's",
        "own time is in the manifest.json of results/FIGURE/SCALE. Some pictures show runs whose",
        "grid we have since replaced. To run such a grid again, check out the commit that its row",
        "names. A command that needs files without a public source says so; the README says under",
        '"Reproduce it" which files they are. All other data is fetched by the command itself.',
        "",
        "| figure | what it shows | paper | task | status | time | run it |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    said: dict[str, str] = {}  # what a scale reduces, and the figure whose row says it
    for name, entry in figures().items():
        results = results_of(name)
        sources = [entry.get("results", name)]
        if "beside" in entry:
            sources.append(entry["beside"])
        time = _times(sources)
        if results is None:
            scales = [*grids(sources[0])]
            status, command = "not run", _run(sources[0], scales[0]) if scales else ""
            if drawable(name):
                status += f"; [{entry['authors']}](figures/{name}.png)"
            if "removed" in entry:
                status += "; [a small model was run and removed](CLAIMS.md)"
        elif "tables" in entry:
            status, command = f"[measured](figures/{name}.png)", f"`{entry['command']}`"
        else:
            reduced = str(results.manifest["reduced"])
            first = said.setdefault(reduced, name)
            text = label(results)
            if first != name and results.manifest["reduced"]:
                text = text.replace(reduced, f"as {first}")
            status = f"[{text}](figures/{name}.png)"
            if "beside" in entry and (other := results_of(entry["beside"])) is not None:
                status += (
                    f"; a part of the picture: the runs of {entry['beside']}, scale: "
                    f"{other.scale}, {other.seeds}"
                )
            shown = [results, *map(results_of, sources[1:])]
            command = ", ".join(_command(of) for of in shown if of is not None)
        lines.append(
            f"| {name} | {entry['shows']} | {entry['section']} | {entry['task']} | {status} "
            f"| {time} | {command} |"
        )
    return "\n".join(lines) + "\n"


def _times(sources: list[str]) -> str:
    """The times of a figure's runs; where it shows the runs of several figures, of each by name."""
    of = {
        source: "; ".join(f"{scale}: {took}" for scale, took in times(source).items())
        for source in sources
        if grids(source)
    }
    if len(sources) == 1:
        return "".join(of.values())
    return ", ".join(f"{source} ({took})" for source, took in of.items())


def _run(figure: str, scale: str) -> str:
    """The command that runs a figure, and what it needs that nobody can fetch."""
    command = f"`python -m experiments figure={figure} scale={scale}`"
    first, *_ = expand([f"figure={figure}", f"scale={scale}"])
    if getattr(first.task, "archive", None) is not None:
        return f"{command} (needs the official archive of IWSLT14, which is fetched by hand)"
    without = {name for name in needed(first.task_name) if not data.ARTEFACTS[name].sources}
    if without and not hasattr(first.task, "weights"):  # style transfer can take torchvision's
        return f"{command} (needs {', '.join(sorted(without))}, which has no public source)"
    return command


def _command(results: Results) -> str:
    """The command that runs a figure.

    If the grid of the results no longer exists, it is the command at scale short. Then, and if the
    grid has other settings than the results, the commit that has the old grid follows.
    """
    scale = results.scale if results.scale in grids(results.figure) else "short"
    command = _run(results.figure, scale)
    if scale != results.scale or _replaced(results):
        commit = results.manifest["environments"][-1]["commit"]
        command += f" ({results.scale}: as of commit {commit[:7]})"
    return command


@cache
def _replaced(results: Results) -> bool:
    """Whether the figure's grid, at the same scale, has other settings than these results."""
    now = _as_written(described(_grid(results)[0]).settings)
    then = results.manifest["settings"]
    return any(now[key] != value for key, value in then.items() if key in now)


def index_file() -> dict[Path, bytes]:
    """The index with its present text."""
    return {RESULTS / "FIGURES.md": index().encode()}


def own_tables(folder: Path) -> tuple[str, Results]:
    """The figure whose tables a folder has, and these.

    Raises:
        ConfigError: the folder has no tables of a figure that can be drawn, or they are not those
            of its whole grid with at least one of its seeds, because verdicts need every setting.
    """
    results = Results(folder)
    if not (folder / "manifest.json").exists():
        raise ConfigError(f"--from {folder}: has no tables; scripts.collect writes them")
    with reading(folder / "manifest.json", RESTORE):
        name, seeds, scale = (results.manifest[key] for key in ("figure", "seeds", "scale"))
    if name not in drawn():
        raise ConfigError(
            f"--from {folder}: its runs are of figure={shown(name)}; one that has a script in "
            f"scripts/figures is needed: {', '.join(drawn())}"
        )
    if scale in COMMITTED and scale not in grids(name):
        raise ConfigError(f"--from {folder}: figure={name} has no grid at scale={scale} any more")
    if scale not in COMMITTED:
        raise ConfigError(f"--from {folder}: scale={scale} decides nothing, so no figure is drawn")
    if not seeds:
        raise ConfigError(f"--from {folder}: each of its seeds lacks runs")
    if missing := _missing(results):
        raise ConfigError(
            f"--from {folder}: figure={name} scale={scale} must have its whole grid, if with fewer "
            f"seeds, but its runs have {missing}"
        )
    return name, results


def _missing(results: Results) -> str:
    """How tables differ from a figure's whole grid beyond seeds, in words; empty if they do not."""
    whole = [described(run) for run in _grid(results)]
    axes, known = results.manifest["axes"], varying(whole)
    for column, key in known.items():
        if column not in axes:
            return f"one {key}"
    for key in axes.values():
        if key not in known.values():
            return f"several {key}"
    for key, value in results.manifest["settings"].items():
        if key not in known.values() and _as_written(whole[0].settings.get(key, value)) != value:
            return f"{key}={shown(value)}"
    columns = {column: key for column, key in known.items() if column != "seed"}
    grid = pd.concat([rows(run, known) for run in whole])
    cells = {seed: set(labels(part, columns)) for seed, part in grid.groupby("seed")}
    fewest = min(cells.values(), key=len)  # in some grids one seed alone has all optimizers
    for seed, runs in results.runs.groupby("seed"):
        wanted, found = cells.get(seed, fewest), set(labels(runs, columns))
        if lacking := len(wanted - found):
            return f"{len(wanted) - lacking} of {len(wanted)} settings at seed {seed}"
        if others := found - wanted:
            text = zip(columns.values(), min(others).split("|"), strict=True)
            return " ".join(f"{key}={value}" for key, value in text if value)
    return ""


def _grid(results: Results) -> list[Settings]:
    """The runs of the present grid of a figure, at the scale of results."""
    return expand([f"figure={results.figure}", f"scale={results.scale}"])


def _as_written(value: Any) -> Any:
    """A setting as a manifest has it."""
    return json.loads(json.dumps(value, default=str))


def files(
    names: list[str], folder: Path | None = None, own: Mapping[str, Results] | None = None
) -> dict[Path, bytes]:
    """Draw these figures; return each picture with its path.

    Args:
        names: names of the figures.
        folder: the folder of the pictures; by default that of one's own tables, else ``PICTURES``.
        own: figure -> results to draw in place of the committed ones.
    """
    found = {}
    own = own or {}
    workers = min(len(names), os.cpu_count() or 1)
    # Only the workers switch the backend; this process may use another, for example in a notebook.
    with ProcessPoolExecutor(workers, initializer=mpl.use, initargs=("Agg",)) as pool:
        tables = [own.get(figures()[name].get("results", name)) for name in names]
        pictures = pool.map(picture, names, tables)
        for name, table, png in zip(names, tables, pictures, strict=True):
            print(f"{name}: {'not run' if png is None else 'drawn'}", flush=True)
            if png is not None:
                place = folder or (table.folder if table else PICTURES)
                found[place / f"{name}.png"] = png
    return found


def main() -> int:
    """Draw, or check."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("figures", nargs="*", help="names; default all")
    parser.add_argument("--check", action="store_true", help="compare with the files, write none")
    mine = "draw a figure from your own tables, into their folder; may be repeated"
    parser.add_argument("--from", type=Path, default=[], action="append", metavar="FOLDER",
                        dest="tables", help=mine)  # fmt: skip
    parser.add_argument("--to", type=Path, help="another folder for the pictures")
    arguments = parser.parse_args()
    if arguments.check and (arguments.tables or arguments.to):
        parser.error(
            "--check: compares the committed pictures, so it takes neither --from nor --to"
        )
    own: dict[str, Results] = {}
    for folder in arguments.tables:
        name, results = own_tables(folder)
        if name in own:
            parser.error(f"--from {folder}: {own[name].folder} has tables of {name}, too")
        own[name] = results
    if unknown := sorted(set(arguments.figures) - set(drawn())):
        parser.error(f"{', '.join(unknown)}: unknown figure; allowed are {', '.join(drawn())}")
    names = arguments.figures or [*own] or drawn()
    sources = {name: figures()[name].get("results", name) for name in names}
    for source in own.keys() - set(sources.values()):
        parser.error(
            f"--from {own[source].folder}: none of {', '.join(names)} is drawn from {source}'s runs"
        )
    for name in [name for name in names if own and not arguments.to and sources[name] not in own]:
        parser.error(f"{name}: has no --from FOLDER; --to FOLDER draws it from committed results")
    if arguments.to:
        try:
            arguments.to.mkdir(parents=True, exist_ok=True)  # fails now, not after the drawing
        except OSError as error:
            why = f"{error.strerror}; must be a folder that can be written"
            raise ConfigError(f"--to {arguments.to}: {why}") from None
    new = files(names, arguments.to, own)
    if not (own or arguments.to):
        new |= index_file()
    return settle(new, arguments.check)


if __name__ == "__main__":
    as_command(main)
