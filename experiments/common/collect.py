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
from collections.abc import Iterator, Mapping, Sequence
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
    if len({settings.scale for settings in every}) > 1:
        (text,) = (text for text in overrides if parsed(text).key_or_group == "scale")
        raise ConfigError(f"{text}: must be one scale, because each scale has its own tables")
    if len(tasks := {settings.task_name for settings in every}) > 1:
        raise ConfigError(
            f"task={','.join(sorted(tasks))}: must be one task, because each has its own tables"
        )
    target = target or _home(every[0], overrides)
    _tidy(target)
    committed = _Committed.read(target)
    where = {settings.key: found(settings) for settings in every}
    here = [s for s in every if where[s.key] is not None]
    there = [s for s in every if where[s.key] is None and s.key in committed.runs]
    missing = [s for s in every if where[s.key] is None and s.key not in committed.runs]
    if missing and (not partial or len(missing) == len(every)):
        command = ["python", "-m", "experiments", *([] if every[0].figure else ["-m"]), *overrides]
        raise ConfigError(
            f"{len(missing)} of {len(every)} runs are not finished; run {shlex.join(command)}"
        )
    if not here:
        raise ConfigError(
            f"output={every[0].output}: holds none of the {len(every)} runs; the tables in "
            f"{target} stay as they are"
        )
    axes = varying([described(settings) for settings in every])
    if there:
        committed.check(axes, target)
    runs, curves, extra = [], [], {}
    for settings in every:
        members, folder = rows(described(settings), axes), where[settings.key]
        if folder is not None:
            runs.append(with_summary(folder, members))
            curves.append(logged(folder, members))
            for path in sorted(folder.glob("*.csv")):
                frame = read_table(path, RERUN).assign(**{KEY: folder.name})
                extra.setdefault(path.name, []).append(frame)
        elif settings.key in committed.runs:
            runs.append(committed.rows("runs", members, axes))
            curves.append(committed.rows("curves", members, axes))
    if there:
        kept = {settings.key for settings in there}
        for path in sorted(target.glob("*.csv")):
            if path.name != "runs.csv":
                frame = read_table(path, RESTORE)
                if KEY in frame:  # tables of earlier versions have no such column
                    frame = frame[frame[KEY].isin(kept) | frame[KEY].isna()]
                extra.setdefault(path.name, []).append(frame)
    table = pd.concat(runs, ignore_index=True)
    long = pd.concat(curves, ignore_index=True)
    manifest = _manifest(every, axes, table, where, committed)
    manifest["unfinished_seeds"] = _seeds(missing)
    manifest["seeds"] = len(set(table.seed) - set(manifest["unfinished_seeds"]))
    if missing and manifest["seeds"] < (before := committed.manifest.get("seeds", 0)):
        raise ConfigError(
            f"{target}: holds {before} seeds of an earlier version, but only {manifest['seeds']} "
            "of the present one are finished; finish the others, or move the folder away first"
        )
    with _replaced(target) as build:
        table.to_csv(build / "runs.csv", index=False, float_format="%.7g")
        if len(long):
            floats = long.select_dtypes("float64").columns.difference(list(axes))
            long.astype(dict.fromkeys(floats, "float32")).to_parquet(
                build / "curves.parquet", compression="zstd", index=False
            )
        for name, frames in extra.items():
            written = (frame.map(rounded) for frame in frames)
            frame = pd.concat(written, ignore_index=True).drop_duplicates()
            frame.to_csv(build / name, index=False, float_format="%.7g")
        for settings in here:
            for path in sorted(where[settings.key].glob("*.jpg")):
                shutil.copy(path, build / f"{path.parent.name}-{path.name}")
        for settings in there:
            for path in sorted(target.glob(f"{settings.key}-*.jpg")):
                shutil.copy(path, build / path.name)
        write_json(build / "manifest.json", manifest)
    return Collected(target, len(there))


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
        return records.RESULTS / first.figure / first.scale
    named = [text for text in own if not text.startswith("task=")]
    name = re.sub(r"[^A-Za-z0-9=,.+-]+", "_", " ".join([first.figure or "", *named]).strip())
    if len(name) > 100:
        name = f"{name[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return first.output / "tables" / first.task_name / first.scale / (name or "one")


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
    where: Mapping[str, Path | None],
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
        if (folder := where[settings.key]) is not None:
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
