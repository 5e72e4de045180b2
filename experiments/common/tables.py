"""Makes tables from run folders: the settings that vary and the results, one row per member.

``collect`` makes tables of a command line's runs, ``scripts.sweep`` of all runs in a folder. The
numbers are read from what the runs wrote about themselves, so the runs may be in progress or of an
older program.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from experiments.common.files import (
    RERUN,
    read_log,
    read_summary,
    reading,
    whole_manifest,
)
from experiments.common.messages import shown
from experiments.common.optimizers import option_default
from experiments.common.schedules import Schedule
from experiments.common.settings import Settings, lookup
from experiments.common.status import short_name

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
    return Described(flat(asdict(settings)), settings.axes())


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key; options and schedules only if they are not the default."""
    optimizer = dict(settings["optimizer"])
    definition = optimizer.pop("definition", None)
    options = optimizer.pop("options", None) or {}
    found = {f"optimizer.{k}": v for k, v in (optimizer | options).items()}
    if definition is not None:
        text = json.dumps(definition, sort_keys=True)
        found[DEFINITION] = hashlib.sha256(text.encode()).hexdigest()[:8]
    found |= {f"task.{k}": v for k, v in settings["task"].items()}
    for name, part in settings.get("schedule", {}).items():
        default = getattr(Schedule(), name)
        for key, value in part.items():
            plain = _plain(value)
            if plain != _plain(getattr(default, key)):
                found[f"schedule.{name}.{key}"] = plain
    return found | {"seed": settings["seed"]}


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
