"""Results tables: from run folders to ``results/<figure>/<scale>/``, and back for who draws.

======================  ==========================================================================
``runs.csv``            one row per member: the axes that vary, the summary numbers, the status
``curves.parquet``      the same axes, ``step``, and every logged metric, long
``<name>.csv``          extra tables of the runs, with the axes that tell the runs apart
``manifest.json``       the figure, the scale and what it reduces, the common settings, each run's
                        key, status, wall time and memory, and the distinct environments
======================  ==========================================================================
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common.config import ROOT, ConfigError, Settings, _compose, expand
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
        return f"{text}, {self.manifest['seeds']} seeds"


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
    """Gather a figure's finished runs into its tables.

    Args:
        overrides: as on the command line of the runs: ``["figure=fig02", "scale=paper"]``.
        target: folder to write; default ``results/<figure>/<scale>``.

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
    figure, scale = every[0].figure, every[0].scale
    assert figure is not None
    target = target or RESULTS / figure / scale
    axes = _varying(every)
    runs, curves, extra = [], [], {}
    for settings in every:
        frame = _members(settings, axes)
        curves.append(_curves(settings, frame))
        for path in sorted(settings.folder.glob("*.csv")):
            labels = {a: frame[a].iloc[0] for a in axes if frame[a].nunique() == 1}
            extra.setdefault(path.name, []).append(pd.read_csv(path).assign(**labels))
        runs.append(_with_summary(settings, frame))
    build = target.with_name(f".{target.name}.new")
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    table = pd.concat(runs, ignore_index=True)
    table.to_csv(build / "runs.csv", index=False, float_format="%.7g")
    long = pd.concat(curves, ignore_index=True)
    if len(long):
        floats = long.select_dtypes("float64").columns.difference(axes)
        long.astype(dict.fromkeys(floats, "float32")).to_parquet(
            build / "curves.parquet", compression="zstd", index=False
        )
    for name, frames in extra.items():
        pd.concat(frames, ignore_index=True).to_csv(build / name, index=False, float_format="%.7g")
    write_json(build / "manifest.json", _manifest(every, axes, table))
    shutil.rmtree(target, ignore_errors=True)
    build.rename(target)
    return Results(target)


def compare(ours: Results, committed: Results) -> str:
    """Cell by cell agreement of two results of one figure, on the rows that both have.

    Returns:
        one line: rows compared, and for each number the share of equal rows and the largest
        relative difference.
    """
    numbers = [c for c in ours.manifest["summary"] if c in committed.runs]
    keys = [c for c in ours.runs.columns.intersection(committed.runs.columns) if c not in numbers]
    keys = [c for c in keys if c != "status"]
    both = ours.runs.merge(committed.runs, on=keys, suffixes=("", "_committed"))
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


def _flat(settings: Settings) -> dict[str, Any]:
    """Decisive settings by dotted key, without the code's hash."""
    plain = settings.decisive()
    flat = {f"optimizer.{k}": v for k, v in plain["optimizer"].items()}
    flat |= {f"task.{k}": v for k, v in plain["task"].items() if k != "name"}
    return flat | {"seed": plain["seed"]}


def _varying(every: Sequence[Settings]) -> dict[str, str]:
    """Column name -> dotted key, for the optimizer, the seed and whatever differs."""
    keys = list(_flat(every[0]))
    chosen = []
    for key in keys:
        values = {json.dumps(_flat(s)[key], sort_keys=True) for s in every}
        batched = any(len(s.axes().get(key, ())) > 1 for s in every)
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


def _with_summary(settings: Settings, frame: pd.DataFrame) -> pd.DataFrame:
    summary = json.loads((settings.folder / "summary.json").read_text())
    manifest = json.loads((settings.folder / "manifest.json").read_text())
    frame = frame.assign(**summary)
    if "status" not in summary:
        frame["status"] = manifest["status"]
    if manifest["diverged_at"] is not None:
        frame["diverged_at"] = manifest["diverged_at"]
    return frame


def _curves(settings: Settings, members: pd.DataFrame) -> pd.DataFrame:
    """Records of one run, one row per member and step; the lists of a batch are unfolded."""
    lines = (settings.folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    parts = [members.assign(**record) for record in records]
    return pd.concat(parts, ignore_index=True) if parts else members.iloc[:0]


def _manifest(
    every: Sequence[Settings], axes: dict[str, str], table: pd.DataFrame
) -> dict[str, Any]:
    first = every[0]
    figure = _compose([f"figure={first.figure}", f"scale={first.scale}"]).figure
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
        "summary": [c for c in table.columns if c not in axes and c != "status"],
        "settings": constant,
        "environments": environments,
        "runs": runs,
    }


