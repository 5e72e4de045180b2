"""Results tables: from run folders to ``results/<figure>/<scale>/``, and back for who draws.

======================  ==========================================================================
``runs.csv``            one row per member: the axes that vary, the summary numbers, and
                        ``diverged_at`` where a run diverged
``curves.parquet``      the same axes, ``step``, and every logged metric, long
``<name>.csv``          extra tables of the runs, one below the other without repeated rows
``<key>-<name>.jpg``    pictures that runs left in their folders
``manifest.json``       the figure, the scale and what it reduces, the common settings, each run's
                        key, status, wall time and memory, and the distinct environments
======================  ==========================================================================
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.common.config import ROOT, ConfigError, Settings, composed, expand
from experiments.common.run import FINAL, status, write_json

RESULTS = ROOT / "results"


@dataclass(frozen=True)
class Results:
    """The committed tables of one figure at one scale. Reads lazily; needs no experiment code."""

    folder: Path

    @property
    def figure(self) -> str:
        """Name of the figure, ``fig02``."""
        return self.folder.parent.name

    @property
    def scale(self) -> str:
        """``paper`` or ``cpu``."""
        return self.folder.name

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per member."""
        return pd.read_csv(self.folder / "runs.csv")

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Long table of logged metrics."""
        return pd.read_parquet(self.folder / "curves.parquet")

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Provenance."""
        return dict(json.loads((self.folder / "manifest.json").read_text()))

    def table(self, name: str) -> pd.DataFrame:
        """An extra table by name."""
        return pd.read_csv(self.folder / f"{name}.csv")

    @property
    def label(self) -> str:
        """One line for figures and claims: scale, what it reduces, number of seeds."""
        reduced = self.manifest["reduced"]
        text = f"scale: {self.scale}" + (f" ({reduced})" if reduced else "")
        return f"{text}, {self.seeds}"

    @property
    def seeds(self) -> str:
        """``1 seed``, ``100 seeds``."""
        count = self.manifest["seeds"]
        return f"{count} seed" + "s" * (count != 1)


def load(figure: str) -> Results | None:
    """The largest committed scale of a figure, or None where nothing was run.

    A smoke run is a test of the program, not a result: it never counts here.
    """
    for scale in ("paper", "cpu"):
        folder = RESULTS / figure / scale
        if (folder / "manifest.json").exists():
            return Results(folder)
    return None


def collect(overrides: Sequence[str], target: Path | None = None) -> Results:
    """Gather the finished runs of a figure, or of any sweep, into tables.

    Args:
        overrides: as on the command line of the runs: ``["figure=fig02", "scale=paper"]``.
        target: folder to write; default ``results/<figure>/<scale>``, and for a sweep that is no
            figure's ``<output>/tables/<task>/<scale>``.

    Raises:
        ConfigError: names how many runs are missing; nothing is written then.
    """
    every = expand(overrides)
    missing = [s for s in every if status(s) not in FINAL]
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(every)} runs are not finished; run "
            f"python -m experiments {' '.join(overrides)}"
        )
    first = every[0]
    home = RESULTS / first.figure if first.figure else first.output / "tables" / first.task_name
    target = target or home / first.scale
    axes = _varying(every)
    runs, curves, extra = [], [], {}
    for settings in every:
        frame = _members(settings, axes)
        curves.append(_curves(settings, frame))
        for path in sorted(settings.folder.glob("*.csv")):
            extra.setdefault(path.name, []).append(pd.read_csv(path))
        runs.append(_with_summary(settings, frame))
    table = pd.concat(runs, ignore_index=True)
    long = pd.concat(curves, ignore_index=True)
    with _replaced(target) as build:
        table.to_csv(build / "runs.csv", index=False, float_format="%.7g")
        if len(long):
            floats = long.select_dtypes("float64").columns.difference(axes)
            long.astype(dict.fromkeys(floats, "float32")).to_parquet(
                build / "curves.parquet", compression="zstd", index=False
            )
        for name, frames in extra.items():
            frame = pd.concat(frames, ignore_index=True).drop_duplicates()
            frame.to_csv(build / name, index=False, float_format="%.7g")
        for settings in every:
            for path in sorted(settings.folder.glob("*.jpg")):
                shutil.copy(path, build / f"{settings.key}-{path.name}")
        write_json(build / "manifest.json", _manifest(every, axes, table))
    return Results(target)


def compare(ours: Results, committed: Results) -> str:
    """Cell by cell agreement of two results of one figure, on the rows that both have.

    Returns:
        one line: rows compared, and for each number the share of equal rows and the largest
        relative difference.
    """
    numbers = [c for c in ours.manifest["summary"] if c in committed.runs]
    constants = ours.manifest["settings"]  # what our runs share may vary among the committed
    shared = {
        name: constants[key]
        for name, key in committed.manifest["axes"].items()
        if name not in ours.runs and key in constants
    }
    mine = ours.runs.assign(**shared)
    keys = [c for c in mine.columns.intersection(committed.runs.columns) if c not in numbers]
    both = mine.merge(committed.runs, on=keys, suffixes=("", "_committed"))
    if both.empty:
        return f"{ours.figure}: no row in common with the committed results"
    parts = []
    for name in numbers:
        a, b = both[name], both[f"{name}_committed"]
        equal = ((a == b) | (a.isna() & b.isna())).mean()
        if pd.api.types.is_numeric_dtype(a) and pd.api.types.is_numeric_dtype(b):
            gap = ((a - b).abs() / b.abs().clip(lower=1e-30)).max()
            parts.append(f"{name} {equal:.2%} equal, largest relative difference {gap:.2g}")
        else:
            parts.append(f"{name} {equal:.2%} equal")
    return f"{ours.figure}: {len(both)} of {len(ours.runs)} rows compared: " + "; ".join(parts)


# Helpers ------------------------------------------------------------------------------------------


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """An empty folder that takes the place of ``target`` when the block ends well."""
    build = target.with_name(f".{target.name}.{os.getpid()}.new")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    build.mkdir(parents=True)
    try:
        yield build
        if target.exists():
            target.rename(old)
        build.rename(target)
    finally:
        shutil.rmtree(build, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _flat(settings: Settings) -> dict[str, Any]:
    """Decisive settings by dotted key, without the code's hash."""
    plain = settings.decisive()
    flat = {f"optimizer.{k}": v for k, v in plain["optimizer"].items()}
    flat |= {f"task.{k}": v for k, v in plain["task"].items() if k != "name"}
    return flat | {"seed": plain["seed"]}


def _varying(every: Sequence[Settings]) -> dict[str, str]:
    """Column name -> dotted key, for the optimizer, the seed and whatever differs."""
    flats, batches = [_flat(s) for s in every], [s.axes() for s in every]
    chosen = []
    for key in flats[0]:
        values = {json.dumps(flat[key], sort_keys=True) for flat in flats}
        batched = any(len(axes.get(key, ())) > 1 for axes in batches)
        if key in ("optimizer.name", "seed") or len(values) > 1 or batched:
            chosen.append(key)
    short = [key.split(".")[-1] for key in chosen]
    names = [
        "optimizer"
        if key == "optimizer.name"
        else last
        if short.count(last) == 1
        else key.replace(".", "_")
        for key, last in zip(chosen, short, strict=True)
    ]
    return dict(zip(names, chosen, strict=True))


def _members(settings: Settings, axes: dict[str, str]) -> pd.DataFrame:
    """One row per member of a run, with the figure's axis columns."""
    batch = pd.DataFrame(settings.members(), columns=list(settings.axes()))
    flat = _flat(settings)
    columns = {name: batch[key] if key in batch else flat[key] for name, key in axes.items()}
    return pd.DataFrame(columns, index=range(max(len(batch), 1)))


def _with_summary(settings: Settings, members: pd.DataFrame) -> pd.DataFrame:
    """One row per member: its axes, and its final numbers."""
    frame = members.copy()
    summary = json.loads((settings.folder / "summary.json").read_text())
    manifest = json.loads((settings.folder / "manifest.json").read_text())
    for name, values in summary.items():  # a column of None alone is still one of numbers
        if name in members:
            raise ValueError(f"{settings.folder}: {name} is in the summary, but is an axis")
        column = pd.Series(values, index=frame.index)
        frame[name] = pd.to_numeric(column) if column.isna().all() else column
    if manifest["diverged_at"] is not None:
        frame["diverged_at"] = manifest["diverged_at"]
    return frame


def _curves(settings: Settings, members: pd.DataFrame) -> pd.DataFrame:
    """Records of one run, one row per member and step; the lists of a batch are unfolded."""
    lines = (settings.folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    frame = members.iloc[np.tile(np.arange(len(members)), len(records))].reset_index(drop=True)
    for name in dict.fromkeys(itertools.chain.from_iterable(records)):
        if name in members:  # it would take the place of the axis
            raise ValueError(f"{settings.folder}: {name} is logged, but is an axis")
        values = np.full((len(records), len(members)), np.nan)
        for row, record in zip(values, records, strict=True):
            row[:] = np.asarray(record.get(name), dtype=float)  # None, once or in a list, is NaN
        whole = name == "step" and np.isfinite(values).all()
        frame[name] = values.astype(np.int64).ravel() if whole else values.ravel()
    return frame


def _manifest(
    every: Sequence[Settings], axes: dict[str, str], table: pd.DataFrame
) -> dict[str, Any]:
    first = every[0]
    figure = composed(f"figure={first.figure}").figure if first.figure else {}
    environments: list[dict[str, Any]] = []
    runs = []
    for settings in every:
        manifest = json.loads((settings.folder / "manifest.json").read_text())
        place = {k: manifest[k] for k in ("commit", "uncommitted_changes", "versions", "hardware")}
        if place not in environments:
            environments.append(place)
        runs.append(
            {
                "key": settings.key,
                "optimizer": settings.optimizer.name,
                "status": manifest["status"],
                "started": manifest["started"],
                "wall_time_s": manifest["wall_time_s"],
                "peak_memory_bytes": manifest["peak_memory_bytes"],
                "environment": environments.index(place),
            }
        )
    constant = {k: v for k, v in _flat(first).items() if k not in axes.values()}
    return {
        "figure": first.figure,
        "task": first.task_name,
        "scale": first.scale,
        "reduced": (figure.get("reduced") or {}).get(first.scale),
        "seeds": int(table["seed"].nunique()),
        "axes": axes,
        "summary": [c for c in table.columns if c not in axes],
        "settings": constant,
        "environments": environments,
        "runs": runs,
    }
