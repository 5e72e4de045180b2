"""Collecting results: from run folders to tables, see ``experiments.common.records``.

Collecting reads only what runs wrote about themselves. A finished run is found by its settings, so
it can still be collected after the program has changed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from experiments.common import records
from experiments.common.config import expand
from experiments.common.files import (
    RERUN,
    RESTORE,
    Damaged,
    read_manifest,
    reading,
    whole_manifest,
    write_json,
)
from experiments.common.messages import ConfigError
from experiments.common.overrides import decides, parsed
from experiments.common.records import KEY, Results, read_table
from experiments.common.settings import Settings
from experiments.common.status import FINAL
from experiments.common.tables import described, logged, rounded, rows, varying, with_summary
from experiments.common.timings import COMMITTED, reduced
from experiments.common.versions import versions

RUNS, CURVES = "runs.csv", "curves.parquet"
WRITTEN = (".csv", ".parquet", ".json", ".jpg", ".png")  # the files that are replaced
OF_A_RUN = ("key", "status", "started", "wall_time_s", "peak_memory_bytes", "versions")


@dataclass(frozen=True)
class Collected(Results):
    """New tables.

    Attributes:
        kept: number of runs that were in the tables before, and are not in the output folder.
    """

    kept: int = 0


def collect(
    overrides: Sequence[str], target: Path | None = None, partial: bool = False
) -> Collected:
    """Gather the finished runs of a figure, or of any sweep, into tables.

    The tables of a figure's whole grid are written to ``results/<figure>/<scale>``. Those of the
    smoke scale, of a part of a grid and of any other sweep are written to
    ``<output>/tables/<task>/<scale>/<the sweep>``.

    Committed rows are kept if their runs are no longer in the output folder, so the runs of a grid
    can be made on several machines.

    Args:
        overrides: as on the command line of the runs: ``["figure=fig02", "scale=paper"]``.
        target: another folder to write to.
        partial: whether to collect although runs are missing. The rows of a seed with missing runs
            are then kept in the table, but :class:`Results` leaves them out.

    Raises:
        ConfigError: the runs are of several tasks or scales, some are missing, none is in the
            output folder, a file of a run is damaged, or the existing tables cannot be replaced,
            because they have other columns or more seeds than are finished now. Nothing is written
            then.
    """
    every = expand(overrides)
    _refuse_several(every, overrides)
    target = target or _home(every[0], overrides)
    _tidy(target)
    committed = _Committed.read(target)
    folders = {s.key: folder for s in every if (folder := found(s)) is not None}
    kept = committed.runs.keys() & {s.key for s in every} - folders.keys()
    missing = [s for s in every if s.key not in folders and s.key not in kept]
    if missing and (not partial or len(missing) == len(every)):
        command = ["python", "-m", "experiments", *([] if every[0].figure else ["-m"]), *overrides]
        raise ConfigError(
            f"{len(missing)} of {len(every)} runs are not finished; run {shlex.join(command)}"
        )
    if not folders:
        raise ConfigError(
            f"output={every[0].output}: holds none of the {len(every)} runs; the tables in "
            f"{target} stay as they are"
        )
    axes = varying([described(settings) for settings in every])
    if kept:
        committed.check(axes, target)
    tables = _tables(every, axes, folders, kept, committed)
    manifest = _manifest(every, axes, tables["runs.csv"], folders, committed)
    manifest["unfinished_seeds"] = _seeds(missing)
    manifest["seeds"] = len(set(tables["runs.csv"].seed) - set(manifest["unfinished_seeds"]))
    if missing and manifest["seeds"] < (before := committed.manifest.get("seeds", 0)):
        raise ConfigError(
            f"{target}: holds {before} seeds of an earlier version, but only {manifest['seeds']} "
            "of the present one are finished; finish the others, or move the folder away first"
        )
    with _replaced(target) as build:
        for name, table in tables.items():
            _write(table, build / name, axes)
        for folder in folders.values():
            for path in folder.glob("*.jpg"):
                shutil.copy(path, build / f"{folder.name}-{path.name}")
        for key in kept:
            for path in target.glob(f"{key}-*.jpg"):
                shutil.copy(path, build / path.name)
        write_json(build / "manifest.json", manifest)
    return Collected(target, len(kept))


def _refuse_several(every: Sequence[Settings], overrides: Sequence[str]) -> None:
    """Check that the runs of a command line are of one scale and one task.

    Raises:
        ConfigError: they are of several.
    """
    if len({settings.scale for settings in every}) > 1:
        (text,) = (text for text in overrides if parsed(text).key_or_group == "scale")
        raise ConfigError(f"{text}: must be one scale, because each scale has its own tables")
    if len(tasks := {settings.task_name for settings in every}) > 1:
        raise ConfigError(
            f"task={','.join(sorted(tasks))}: must be one task, because each has its own tables"
        )


def _tables(
    every: Sequence[Settings],
    axes: dict[str, str],
    folders: Mapping[str, Path],
    kept: Set[str],
    committed: _Committed,
) -> dict[str, pd.DataFrame]:
    """The tables by file name: ``runs.csv``, ``curves.parquet`` and those of the task.

    Args:
        every: the runs, in the order of the rows; those that are missing are left out.
        axes: the columns, see :func:`varying`.
        folders: the folders of runs by key.
        kept: the keys of the runs whose rows are taken from the committed tables.
        committed: the committed tables.
    """
    parts: dict[str, list[pd.DataFrame]] = {RUNS: [], CURVES: []}
    for settings in every:
        members = rows(described(settings), axes)
        if (folder := folders.get(settings.key)) is not None:
            parts[RUNS].append(with_summary(folder, members))
            parts[CURVES].append(logged(folder, members))
            for path in sorted(folder.glob("*.csv")):
                frame = read_table(path, RERUN).assign(**{KEY: folder.name})
                parts.setdefault(path.name, []).append(frame)
        elif settings.key in kept:
            parts[RUNS].append(committed.rows("runs", members, axes))
            parts[CURVES].append(committed.rows("curves", members, axes))
    if kept:
        for path in sorted(committed.results.folder.glob("*.csv")):
            if path.name != RUNS:
                frame = read_table(path, RESTORE)
                if KEY in frame:  # tables of earlier versions have no such column
                    frame = frame[frame[KEY].isin(kept) | frame[KEY].isna()]
                parts.setdefault(path.name, []).append(frame)
    tables = {name: pd.concat(parts.pop(name), ignore_index=True) for name in (RUNS, CURVES)}
    for name, frames in parts.items():
        written = (frame.map(rounded) for frame in frames)  # as committed rows are, to compare them
        tables[name] = pd.concat(written, ignore_index=True).drop_duplicates()
    return tables


def _write(table: pd.DataFrame, path: Path, axes: Mapping[str, str]) -> None:
    """Write a table with seven digits; curves, if there are any, as Parquet with float32."""
    if path.name != CURVES:
        table.to_csv(path, index=False, float_format="%.7g")
    elif len(table):
        floats = table.select_dtypes("float64").columns.difference(list(axes))
        small = table.astype(dict.fromkeys(floats, "float32"))
        small.to_parquet(path, compression="zstd", index=False)


def finished(settings: Settings) -> bool:
    """Whether a run's results exist, in the output folder or in its figure's committed tables."""
    if found(settings) is not None:
        return True
    folder = records.RESULTS / str(settings.figure) / settings.scale
    return settings.key in _Committed.read(folder).runs


def _home(first: Settings, overrides: Sequence[str]) -> Path:
    """The folder for the tables of a command line."""
    own = sorted(text for text in overrides if decides(text))
    if first.figure and first.scale in COMMITTED and not own:
        return Path(records.RESULTS, first.figure, first.scale)
    named = [text for text in own if not text.startswith("task=")]
    name = re.sub(r"[^A-Za-z0-9=,.+-]+", "_", " ".join([first.figure or "", *named]).strip())
    if len(name) > 100:
        name = f"{name[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Path(first.output, "tables", first.task_name, first.scale, name or "one")


def found(settings: Settings) -> Path | None:
    """The folder of a finished run of these settings, or None.

    A run with the same key is preferred. If the task declares no version, its key changes with
    every edit of its program; then the newest run with the same settings is taken.
    """
    manifest = read_manifest(settings.folder)
    if manifest is not None and manifest["status"] in FINAL:
        return settings.folder
    now = versions(settings.task_name)
    if isinstance(now["task"], int):
        return None
    wanted = json.dumps(settings.decisive(), sort_keys=True)
    others = []
    for path in settings.folder.parent.glob("*/manifest.json"):
        with suppress(Damaged), reading(path, RERUN):
            other = whole_manifest(path.parent) or {}
            if (
                other["status"] in FINAL
                and json.dumps(other["settings"], sort_keys=True) == wanted
                and other["versions"]["laprop"] == now["laprop"]
            ):
                others.append((str(other["started"]), path.parent))
    return max(others)[1] if others else None


@dataclass(frozen=True)
class _Committed:
    """The tables that are already in the folder for new ones."""

    results: Results
    manifest: dict[str, Any]
    axes: dict[str, str]
    runs: dict[str, dict[str, Any]]  # by key, as in the manifest

    @classmethod
    def read(cls, folder: Path) -> _Committed:
        """The tables of a folder; without runs if it has no tables."""
        path, results = folder / "manifest.json", Results(folder)
        with reading(path, RESTORE):
            manifest = results.manifest if path.exists() else {"axes": {}, "runs": []}
            runs = {run["key"]: run for run in manifest["runs"]}
            return cls(results, manifest, dict(manifest["axes"]), runs)

    def check(self, axes: dict[str, str], target: Path) -> None:
        """Check that these tables have the same columns as new ones.

        Raises:
            ConfigError: they have other columns.
        """
        if self.axes != axes:
            raise ConfigError(
                f"{target}: holds runs that are not in the output folder, and their columns are "
                f"{', '.join(self.axes)}, not {', '.join(axes)}; move the folder away first"
            )

    def rows(self, name: str, members: pd.DataFrame, axes: dict[str, str]) -> pd.DataFrame:
        """The rows of a run's members in ``runs`` or ``curves``."""
        wanted, folder = set(labels(members, axes)), self.results.folder
        if name == "runs":
            with reading(folder / "runs.csv", RESTORE):
                frame = self.results.every_run
                frame = frame[labels(frame, axes).isin(wanted)]
                if len(frame) != len(members):
                    raise ValueError(f"{len(frame)} rows of a run that has {len(members)}")
                return frame
        if not (folder / "curves.parquet").exists():
            return members.iloc[:0]
        with reading(folder / "curves.parquet", RESTORE):
            frame = self.results.every_curve
            return frame[labels(frame, axes).isin(wanted)]


def labels(frame: pd.DataFrame, axes: dict[str, str]) -> pd.Series:
    """The axes of each row as one text, with numbers as they are written in tables."""

    def text(value: Any) -> str:
        if pd.isna(value):
            return ""
        if isinstance(value, bool):  # pandas reads a column of true and false as bool
            return str(value).lower()
        return f"{value:.7g}" if isinstance(value, float) else str(value)

    columns = [frame[name].map(text, na_action=None) for name in axes]
    return pd.concat(columns, axis=1).agg("|".join, axis=1)


def _seeds(every: Sequence[Settings]) -> list[int]:
    """The distinct seeds of runs; the seed of a batched run is a list."""
    lists = [s.seed if isinstance(s.seed, list | tuple) else [s.seed] for s in every]
    return sorted(set(itertools.chain.from_iterable(lists)))


def _tidy(target: Path) -> None:
    """Put back the tables that a killed process left beside ``target``, and remove its new ones."""
    for left in target.parent.glob(f".{target.name}.*.*"):
        pid = left.name.split(".")[-2]
        if left.suffix not in (".new", ".old") or not pid.isdigit() or psutil.pid_exists(int(pid)):
            continue
        if left.suffix == ".old" and not target.exists():
            left.rename(target)
        else:
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """A context with an empty folder, which replaces ``target`` if the block ends without error."""
    build = target.with_name(f".{target.name}.{os.getpid()}.new")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        with suppress(FileNotFoundError):
            os.listdir(target)  # it may be a file
        build.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}; must be a folder for the tables") from None
    try:
        yield build
        if target.exists():
            for file in target.iterdir():  # the user's own, such as notes
                if file.is_file() and file.suffix not in WRITTEN:
                    shutil.copy2(file, build)  # a copy, because the renaming may still fail
            target.rename(old)
        build.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(build, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _manifest(
    every: Sequence[Settings],
    axes: dict[str, str],
    table: pd.DataFrame,
    folders: Mapping[str, Path],
    committed: _Committed,
) -> dict[str, Any]:
    """The provenance of the tables, for runs in the output folder and committed runs that are kept.

    The runs are in the order of the table.
    """
    first = every[0]
    environments: list[dict[str, Any]] = []

    def places(of: Sequence[dict[str, Any]]) -> list[int]:
        environments.extend(place for place in of if place not in environments)
        return [environments.index(place) for place in of]

    runs, programs = [], set()
    for settings in every:
        if (folder := folders.get(settings.key)) is not None:
            with reading(folder / "manifest.json", RERUN):
                manifest = whole_manifest(folder) or {}
                run = {key: manifest[key] for key in OF_A_RUN}
                run["optimizer"] = manifest["settings"]["optimizer"]["name"]
                of = list(manifest["environments"])
                programs |= {str(place["program"]) for place in of}
        elif settings.key in committed.runs:
            with reading(committed.results.folder / "manifest.json", RESTORE):
                run = committed.runs[settings.key]
                of = [committed.manifest["environments"][i] for i in run["environments"]]
                programs |= {str(place["program"]) for place in of}
        else:
            continue
        members = math.prod(map(len, settings.axes().values()))
        runs.append(run | {"rows": members, "environments": places(of)})
    return {
        "figure": first.figure,
        "task": first.task_name,
        "scale": first.scale,
        "reduced": reduced(str(first.figure)).get(first.scale),
        "axes": axes,
        "summary": [c for c in table.columns if c not in axes],
        "settings": {k: v for k, v in described(first).settings.items() if k not in axes.values()},
        "programs": sorted(programs),
        "environments": environments,
        "runs": runs,
    }
