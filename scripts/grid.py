"""Compare tables with the grid that their figure has now."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common.collect import labels
from experiments.common.config import expand
from experiments.common.files import RESTORE, reading
from experiments.common.messages import ConfigError, shown
from experiments.common.records import Results
from experiments.common.settings import Settings
from experiments.common.tables import described, rows, varying
from experiments.common.timings import COMMITTED, grids
from scripts.paper import drawn


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
    if difference := _difference(results):
        raise ConfigError(
            f"--from {folder}: figure={name} scale={scale} must have its whole grid, if with fewer "
            f"seeds, but its runs have {difference}"
        )
    return name, results


def _difference(results: Results) -> str:
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


@cache
def replaced(results: Results) -> bool:
    """Whether the figure's grid, at the same scale, has other settings than these results."""
    now = _as_written(described(_grid(results)[0]).settings)
    then = results.manifest["settings"]
    return any(now[key] != value for key, value in then.items() if key in now)


def _grid(results: Results) -> list[Settings]:
    """The runs of the present grid of a figure, at the scale of results."""
    return expand([f"figure={results.figure}", f"scale={results.scale}"])


def _as_written(value: Any) -> Any:
    """A setting as a manifest has it."""
    return json.loads(json.dumps(value, default=str))
