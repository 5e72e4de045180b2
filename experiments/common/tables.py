"""Makes tables from run folders: the settings that vary and the results, one row per member.

``collect`` makes the rows of a command line's runs. :func:`read` takes all runs in a folder. It
reads only what they wrote about themselves, so it can also read runs of a sweep in progress, and
runs of an older program.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from experiments.common.files import (
    RERUN,
    Damaged,
    read_log,
    read_settings,
    read_summary,
    reading,
    whole_manifest,
)
from experiments.common.messages import ConfigError, shown, unknown
from experiments.common.optimizers import option_default
from experiments.common.schedules import Schedule
from experiments.common.settings import Settings, lookup
from experiments.common.status import FINAL, present_status, short_name

DEFINITION = "optimizer.definition"  # a hash of what an optimizer's file says about its class


@dataclass(frozen=True)
class Described:
    """The settings that distinguish runs.

    Attributes:
        settings: the settings that decide the result, by dotted key: ``optimizer.nu``.
        batch: for a vectorised run the values of each axis; the last axis changes fastest.
    """

    settings: dict[str, Any]
    batch: dict[str, list[Any]]


def described(settings: Settings) -> Described:
    """The description of a run with these settings."""
    return Described(_flat(asdict(settings)), settings.axes())


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key; options and schedules only if they are not the default."""
    optimizer = dict(settings["optimizer"])
    definition = optimizer.pop("definition", None)
    options = optimizer.pop("options", None) or {}
    flat = {f"optimizer.{k}": v for k, v in (optimizer | options).items()}
    if definition is not None:
        text = json.dumps(definition, sort_keys=True)
        flat[DEFINITION] = hashlib.sha256(text.encode()).hexdigest()[:8]
    flat |= {f"task.{k}": v for k, v in settings["task"].items()}
    for name, part in settings.get("schedule", {}).items():
        default = getattr(Schedule(), name)
        for key, value in part.items():
            plain = _plain(value)
            if plain != _plain(getattr(default, key)):
                flat[f"schedule.{name}.{key}"] = plain
    return flat | {"seed": settings["seed"]}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _setting(run: Described, key: str) -> Any:
    """A run's setting, or its default if the run does not have it, or None without a default."""
    if key in run.settings:
        return run.settings[key]
    group, _, name = key.partition(".")
    if group == "optimizer":
        return option_default(run.settings["optimizer.name"], name)
    return _plain(lookup(Schedule(), name)) if group == "schedule" else None


def varying(every: Sequence[Described]) -> dict[str, str]:
    """Column name -> dotted key, for the optimizer, the seed and every setting that varies.

    The name of a column is the last part of its key, ``nu``. If the task has a setting of the same
    name as the optimizer, the name of the task's column is the whole key, ``task_epsilon``.
    """
    keys = dict.fromkeys(itertools.chain.from_iterable(run.settings for run in every))
    chosen = [key for key in keys if key in ("optimizer.name", "seed") or _varies(key, every)]
    short = [short_name(key) for key in chosen]
    names = [
        "optimizer"
        if key == "optimizer.name"
        else last
        if short.count(last) == 1 or key.startswith("optimizer.")
        else key.replace(".", "_")
        for key, last in zip(chosen, short, strict=True)
    ]
    return dict(zip(names, chosen, strict=True))


def _varies(key: str, every: Sequence[Described]) -> bool:
    """Whether a setting has several values in these runs."""
    if key == DEFINITION:  # it is there to tell optimizers of one name apart
        pairs = {(run.settings["optimizer.name"], run.settings.get(key)) for run in every}
        return len(pairs) > len({name for name, _ in pairs})
    known = key.startswith(("optimizer.", "schedule."))  # other versions of a task may have others
    values = {
        json.dumps(_setting(run, key), sort_keys=True)
        for run in every
        if known or key in run.settings
    }
    return len(values) > 1 or any(len(run.batch.get(key, ())) > 1 for run in every)


def rows(run: Described, axes: Mapping[str, str]) -> pd.DataFrame:
    """One row per member of a run, with the columns of ``axes`` (column name -> dotted key)."""
    batch = pd.DataFrame(list(itertools.product(*run.batch.values())), columns=list(run.batch))
    columns = {
        name: batch[key] if key in batch else _cell(_setting(run, key))
        for name, key in axes.items()
    }
    frame = pd.DataFrame(columns, index=range(max(len(batch), 1)))
    # An empty column, such as nu of an optimizer that has no nu, gets the type of numbers.
    return frame.apply(lambda column: pd.to_numeric(column) if column.isna().all() else column)


def _cell(value: Any) -> Any:
    """A setting as one entry of a column: a number, or text as on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return shown(value) if isinstance(value, list | tuple | dict) else value


def rounded(value: Any) -> Any:
    """A number rounded to seven digits, as in written tables."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def with_summary(folder: Path, members: pd.DataFrame) -> pd.DataFrame:
    """One row per member: its axes, and its final numbers."""
    frame = members.copy()
    with reading(folder / "summary.json", RERUN):
        for name, values in read_summary(folder).items():
            column = pd.Series(values, index=frame.index)
            # A column of None only gets the type of numbers.
            frame[_beside(name, members)] = pd.to_numeric(column) if column.isna().all() else column
    with reading(folder / "manifest.json", RERUN):
        diverged_at = (whole_manifest(folder) or {})["diverged_at"]
    if diverged_at is not None:
        frame["diverged_at"] = diverged_at
    return frame


def logged(folder: Path, members: pd.DataFrame, ended: bool = True) -> pd.DataFrame:
    """The records of one run, one row per member and step.

    Args:
        folder: the run's folder.
        members: the axes of each member.
        ended: whether the run has ended, see :func:`files.read_log`.
    """
    with reading(folder / "metrics.jsonl", RERUN):
        records = list(read_log(folder, ended))
        frame = members.iloc[np.tile(np.arange(len(members)), len(records))].reset_index(drop=True)
        for name in dict.fromkeys(itertools.chain.from_iterable(records)):
            values = np.full((len(records), len(members)), np.nan)
            for row, record in zip(values, records, strict=True):
                row[:] = np.asarray(record.get(name), dtype=float)  # None, or in a list, is NaN
            whole = name == "step" and np.isfinite(values).all()
            column = values.astype(np.int64).ravel() if whole else values.ravel()
            frame[_beside(name, members)] = column
        return frame


def last(folder: Path, members: pd.DataFrame) -> pd.DataFrame:
    """The last value of each logged metric of a run that has ended; NaN if it is null.

    A member that has diverged in a vectorised run thus has no value, not the last finite one.
    """
    values: dict[str, Any] = {}
    with reading(folder / "metrics.jsonl", RERUN):
        for record in read_log(folder, ended=True):
            values |= record
        values.pop("step", None)
        columns = {
            _beside(name, members): np.broadcast_to(np.asarray(value, dtype=float), len(members))
            for name, value in values.items()
        }
        return pd.DataFrame(columns, index=members.index)


def _beside(name: str, members: pd.DataFrame) -> str:
    """The column of a measured number; its name is prefixed if a setting has the same name."""
    return f"measured_{name}" if name in members else name


# All runs of a folder -----------------------------------------------------------------------------


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
    known = dict.fromkeys(itertools.chain.from_iterable(one.run.settings for one in found))
    keys = {_key(k, list(known), values): values for k, values in wanted.items() if k != "scale"}
    members = [rows(one.run, {key: key for key in keys}) for one in found]
    matching = chosen_rows(pd.concat(members), keys, folder)
    ends_of = np.cumsum([len(frame) for frame in members])[:-1]
    pairs = zip(found, np.split(matching, ends_of), strict=True)
    kept = [(one, members) for one, members in pairs if members.any()]
    axes = varying([one.run for one, _ in kept])
    tables, ends = [pd.DataFrame(columns=list(axes))], [pd.DataFrame()]
    curves = [pd.DataFrame(columns=list(axes))]
    whole, repeated = [], 0
    every = [rows(one.run, axes) for one, _ in kept]
    older = _repeats([one for one, _ in kept], every)
    for (one, matching), members, again in zip(kept, every, older, strict=True):
        chosen = matching & ~again
        counts = chosen.any()
        try:
            ended = one.final and counts
            summary = with_summary(one.folder, members)[chosen] if ended else None
            end = last(one.folder, members)[chosen] if ended else None
            begun = counts and (one.final or (one.folder / "metrics.jsonl").exists())
            long = logged(one.folder, members, one.final) if begun else None
        except Damaged as error:
            damaged.append(str(error))
            continue
        whole.append(one)
        repeated += int((matching & again).sum())
        if summary is not None:
            tables.append(summary)
            ends.append(end)
        if long is not None:
            curves.append(long[np.tile(chosen, len(long) // len(members))])
    if not whole:
        raise Damaged(damaged[-1])
    runs, at_end = (pd.concat(f[1:] or f, ignore_index=True) for f in (tables, ends))
    return Tables(
        name=found[0].task,
        runs=runs.join(at_end[[name for name in at_end if name not in runs]]),
        curves=pd.concat(curves[1:] or curves, ignore_index=True),
        axes=axes,
        statuses=Counter(one.status for one in whole),
        damaged=damaged,
        scale=found[0].scale,
        versions=len({one.versions for one in whole}),
        repeated=repeated,
        shared=_shared([one.run for one, _ in kept], axes),
    )


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
        flat = _flat(settings)
    with reading(folder / "manifest.json", RERUN):
        axes = {name: flat[name] for name in manifest["axes"]}
        batch = {name: v if isinstance(v, list) else [v] for name, v in axes.items()}
        return _Found(
            folder=folder,
            task=str(manifest["task"]),
            scale=str(manifest["scale"]),
            status=present_status(folder, manifest),
            started=str(manifest["started"]),
            decisive=json.dumps([manifest["settings"], manifest["scale"]], sort_keys=True),
            versions=json.dumps(manifest["versions"]),
            run=Described(flat, batch),
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


def _members(value: Any) -> list[Any] | None:
    """The members of a list, which a table has as text, ``[0.5,1e-05]``; None for anything else."""
    if isinstance(value, str) and value.startswith("["):
        with suppress(yaml.YAMLError, ValueError):  # an impossible date is a ValueError
            value = yaml.safe_load(value)
    if not isinstance(value, list | tuple):
        return None
    # YAML takes 1e-05 for text.
    number = re.compile(r"[-+]?[\d.]+e[-+]?\d+", re.IGNORECASE)
    return [
        float(member) if isinstance(member, str) and number.fullmatch(member) else member
        for member in value
    ]


def same(cell: Any, value: Any) -> bool:
    """Whether a cell of a table equals a setting's value; fractions may differ by rounding."""
    if isinstance(cell, str) and cell == value:
        return True
    one, other = _members(cell), _members(value)
    if one is not None and other is not None:
        return len(one) == len(other) and all(map(same, one, other))
    pair = [_cell(cell), _cell(value)]
    if any(x is None or x is pd.NA for x in pair):
        return all(x is None or pd.isna(x) for x in pair)
    fractions = [x for x in pair if isinstance(x, float) and not x.is_integer()]
    return math.isclose(*fractions, rel_tol=1e-6) if len(fractions) == 2 else pair[0] == pair[1]
