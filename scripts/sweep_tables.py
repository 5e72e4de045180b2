"""Makes the tables of all runs in a folder, finished or in progress.

:func:`read` takes what the runs wrote about themselves, so it needs neither their command line nor
the program that made them.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.common.files import RERUN, Damaged, read_settings, reading, whole_manifest
from experiments.common.messages import ConfigError, shown, unknown
from experiments.common.status import FINAL, present_status, short_name
from experiments.common.tables import (
    DEFINITION,
    Described,
    flat,
    last,
    logged,
    rows,
    same,
    varying,
    with_summary,
)


@dataclass(frozen=True)
class Tables:
    """The tables of a folder's runs.

    Attributes:
        name: name of the task, or of the figure that the tables are of.
        runs: one row per member of each finished run: its summary, and the last value of each
            metric that is logged but in no summary, NaN if that is null.
        curves: long table of all logged records, also of unfinished runs.
        axes: column name -> dotted key, for every setting that varies.
        statuses: numbers of runs that are ``finished``, ``diverged``, ``stopped``, ..., see
            :class:`status.State`.
        damaged: a line for each run that is left out, since a file of it is damaged.
        scale: the scale of all runs.
        versions: number of versions of the task's program that made the runs.
        repeated: number of members that are left out, since a newer run has the same settings.
        shared: dotted key -> value, for every setting that is the same in all runs.
    """

    name: str
    runs: pd.DataFrame
    curves: pd.DataFrame
    axes: dict[str, str]
    statuses: Counter[str]
    damaged: list[str]
    scale: str
    versions: int
    repeated: int = 0
    shared: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """A run of a folder, as it describes itself."""

    folder: Path
    task: str
    scale: str
    status: str
    started: str
    decisive: str  # settings and scale: of runs that share them only one counts
    versions: str
    run: Described

    @property
    def final(self) -> bool:
        return self.status in FINAL


def read(folder: Path, wanted: Mapping[str, Sequence[Any]]) -> Tables:
    """All runs in the folder of a task, ``<output>/<task>``, or those with certain settings.

    If several runs have the same settings, because the task was edited, only one counts: the newest
    finished one or, if none is finished, the newest. The same holds for the members of batches that
    overlap. A run of which a file is damaged is left out.

    Args:
        folder: a folder that contains a folder for each run.
        wanted: dotted key, or its last part, or ``scale`` -> the values to keep.

    Raises:
        ConfigError: nothing matches, a key is unknown, or the runs are of several scales.
        Damaged: every run is damaged.
    """
    newest, damaged = _newest(folder)
    found = _of_one_scale(newest, folder, wanted.get("scale"))
    kept = _wanted(found, folder, wanted)
    axes = varying([one.run for one, _ in kept])
    every = [rows(one.run, axes) for one, _ in kept]
    older = _repeats([one for one, _ in kept], every)
    parts, whole, repeated = [], [], 0
    for (one, matching), members, again in zip(kept, every, older, strict=True):
        try:
            parts.append(_of_run(one, members, matching & ~again))
        except Damaged as error:
            damaged.append(str(error))
            continue
        whole.append(one)
        repeated += int((matching & again).sum())
    if not whole:
        raise Damaged(damaged[-1])
    no_row = pd.DataFrame(columns=list(axes))
    summaries, ends, curves = (
        pd.concat([part for part in kind if part is not None] or [empty], ignore_index=True)
        for kind, empty in zip(
            zip(*parts, strict=True), (no_row, pd.DataFrame(), no_row), strict=True
        )
    )
    return Tables(
        name=found[0].task,
        runs=summaries.join(ends[[name for name in ends if name not in summaries]]),
        curves=curves,
        axes=axes,
        statuses=Counter(one.status for one in whole),
        damaged=damaged,
        scale=found[0].scale,
        versions=len({one.versions for one in whole}),
        repeated=repeated,
        shared=_shared([one.run for one, _ in kept], axes),
    )


def _wanted(
    found: Sequence[_Found], folder: Path, wanted: Mapping[str, Sequence[Any]]
) -> list[tuple[_Found, np.ndarray]]:
    """The runs of which a member has the wanted settings, and whether each member has them.

    Raises:
        ConfigError: a key is unknown, or nothing matches.
    """
    known = dict.fromkeys(itertools.chain.from_iterable(one.run.settings for one in found))
    keys = {_key(k, list(known), values): values for k, values in wanted.items() if k != "scale"}
    members = [rows(one.run, {key: key for key in keys}) for one in found]
    matching = chosen_rows(pd.concat(members), keys, folder)
    ends = np.cumsum([len(frame) for frame in members])[:-1]
    pairs = zip(found, np.split(matching, ends), strict=True)
    return [(one, members) for one, members in pairs if members.any()]


def _of_run(
    one: _Found, members: pd.DataFrame, chosen: np.ndarray
) -> tuple[pd.DataFrame | None, pd.DataFrame | None, pd.DataFrame | None]:
    """The summary, the last logged values and the curves of a run's chosen members.

    Each is None if no member is chosen or the run has not come so far.

    Raises:
        Damaged: a file of the run is damaged.
    """
    if not chosen.any():
        return None, None, None
    summary = with_summary(one.folder, members)[chosen] if one.final else None
    end = last(one.folder, members)[chosen] if one.final else None
    if not one.final and not (one.folder / "metrics.jsonl").exists():
        return summary, end, None
    curves = logged(one.folder, members, one.final)
    return summary, end, curves[np.tile(chosen, len(curves) // len(members))]


def _shared(every: Sequence[Described], axes: Mapping[str, str]) -> dict[str, Any]:
    """The settings that no column has, since they are the same in all runs."""
    found: dict[str, Any] = {}
    for run in every:
        found = run.settings | found
    return {
        key: value
        for key, value in found.items()
        if key not in (*axes.values(), DEFINITION)
        # Another version of the task may lack one of its settings.
        and not (key.startswith("task.") and any(key not in run.settings for run in every))
    }


def _repeats(found: Sequence[_Found], every: Sequence[pd.DataFrame]) -> list[np.ndarray]:
    """For each member of each run, whether a run that takes precedence has the same member."""
    order = sorted(
        range(len(found)), key=lambda i: (found[i].final, found[i].started), reverse=True
    )
    again = pd.concat([every[i] for i in order], keys=order).duplicated()
    return [again.loc[i].to_numpy() for i in range(len(found))]


def _newest(folder: Path) -> tuple[list[_Found], list[str]]:
    """The runs of a folder, and a line for each that is damaged.

    Of runs with the same settings there is only one, see :func:`read`.
    """
    newest: dict[str, _Found] = {}
    damaged = []
    for path in sorted(folder.glob("*/config.yaml")):
        try:
            one = _found(path.parent)
        except Damaged as error:
            damaged.append(str(error))
            continue
        if one is None:
            continue  # the run is just beginning
        other = newest.setdefault(one.decisive, one)
        if (other.final, other.started) < (one.final, one.started):
            newest[one.decisive] = one
    if damaged and not newest:
        raise Damaged(damaged[0])
    if not newest:
        raise ConfigError(f"{folder}: no run has begun yet")
    return list(newest.values()), damaged


def _found(folder: Path) -> _Found | None:
    """The run of a folder, or None if it has not begun."""
    manifest = whole_manifest(folder)
    if manifest is None:
        return None
    settings = read_settings(folder)
    with reading(folder / "config.yaml", RERUN):
        described = flat(settings)
    with reading(folder / "manifest.json", RERUN):
        axes = {name: described[name] for name in manifest["axes"]}
        batch = {name: v if isinstance(v, list) else [v] for name, v in axes.items()}
        return _Found(
            folder=folder,
            task=str(manifest["task"]),
            scale=str(manifest["scale"]),
            status=present_status(folder, manifest),
            started=str(manifest["started"]),
            decisive=json.dumps([manifest["settings"], manifest["scale"]], sort_keys=True),
            versions=json.dumps(manifest["versions"]),
            run=Described(described, batch),
        )


def _of_one_scale(found: list[_Found], folder: Path, wanted: Sequence[Any] | None) -> list[_Found]:
    """The runs of the wanted scale.

    Raises:
        ConfigError: no run has it, or none is named and there are several.
    """
    present = sorted({one.scale for one in found})
    chosen = [scale for scale in present if wanted is None or scale in wanted]
    if not chosen:
        raise ConfigError(f"scale={_listed(wanted or ())}: the runs are {', '.join(present)}")
    if len(chosen) > 1:
        several = ", scale=".join(chosen)
        raise ConfigError(f"{folder}: holds runs of several scales; add one of scale={several}")
    return [one for one in found if one.scale == chosen[0]]


def _listed(values: Sequence[Any]) -> str:
    """Values as on the command line."""
    return ",".join(map(shown, values))


def _key(name: str, keys: Sequence[str], values: Sequence[Any]) -> str:
    """The dotted key of a name, which is the key itself or, if that is unique, its last part.

    Raises:
        ConfigError: the name is unknown, or several keys end in it.
    """
    ends = Counter(map(short_name, keys))
    short = {"optimizer" if key == "optimizer.name" else short_name(key): key for key in keys}
    names = {end: key for end, key in short.items() if ends[short_name(key)] == 1}
    if name in keys:
        return name
    if name not in names:
        raise unknown(name, _listed(values), name, sorted(names))
    return names[name]


def chosen_rows(
    frame: pd.DataFrame, wanted: Mapping[str, Sequence[Any]], folder: Path
) -> np.ndarray:
    """Whether each row of a table has the wanted settings, booleans of shape (rows,).

    Args:
        frame: a row per run or member.
        wanted: column -> the values to keep.
        folder: where the runs are, for the error.

    Raises:
        ConfigError: no row has one of the values, or none has all settings at once.
    """
    kept = np.ones(len(frame), bool)
    for key, values in wanted.items():
        hits = have(frame[key], values)
        for value, hit in zip(values, hits.T, strict=True):
            if not hit.any():
                present = frame[key].dropna().unique().tolist()
                order = sorted(present, key=lambda x: (isinstance(x, str), x))
                listed = [*map(shown, order), *["null"] * int(frame[key].isna().any())]
                raise ConfigError(
                    f"{key}={shown(value)}: no run in {folder} has it; they have "
                    f"{', '.join(listed)}"
                )
        kept &= hits.any(axis=1)
    if not kept.any():
        words = " ".join(f"{key}={','.join(map(shown, values))}" for key, values in wanted.items())
        raise ConfigError(f"{words}: no run in {folder} has all of these settings")
    return kept


def have(column: pd.Series, values: Sequence[Any]) -> np.ndarray:
    """Whether each cell of a column is each of these values, booleans of shape (rows, values)."""
    found = [[same(cell, value) for value in values] for cell in column]
    return np.array(found, bool).reshape(len(column), len(values))
