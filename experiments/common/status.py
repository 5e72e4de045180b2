"""The state of a sweep, read from the files of its runs, in the same way for every launcher.

A sweep writes a record of its runs to ``<output>/.sweep/<name>.json``, see ``launch.begin``.
Everything else is read from the runs' own folders, so any process that sees the output folder can
report the state. Nothing here needs torch.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from experiments.common import progress
from experiments.common.files import (
    RERUN,
    Damaged,
    check_log,
    read_summary,
    reading,
    whole_manifest,
)

FINAL = ("finished", "diverged")  # statuses of a run that need not be run again
RECORDS = ".sweep"  # folder of the records, in the output folder
NEVER = (  # numbers of a summary that are null if the run never got there
    "bound_any_passed_at",
    "bound_run_passed_at",
    "bound_uniform_passed_at",
    "condition_broken_at",
    "steps_to_converge",
)


@dataclass(frozen=True)
class State:
    """The state of one run at one moment.

    Attributes:
        status: waiting, running, finished, diverged, failed, interrupted (by a signal), stopped
            (its process ended without writing a status: it was killed, or the machine went down),
            or damaged (a file of it cannot be read).
        started: time of its start from the manifest; empty before.
        seconds: wall time of a run that has ended.
        says: its main result, the step at which it diverged, the error with file and line, or
            which file is damaged.
        process: the process and progress of a run in progress, see :class:`progress.Progress`.
    """

    status: str = "waiting"
    started: str = ""
    seconds: float | None = None
    says: str = ""
    process: dict[str, Any] | None = None


@dataclass(frozen=True)
class RunFolder:
    """One run of a sweep: its folder, and a label of the settings that distinguish it."""

    folder: Path
    label: str
    result: str | None = None  # name of the main result, if the task defines one

    def look(self) -> State:
        """The present state of the run."""
        try:
            manifest = whole_manifest(self.folder)
            if manifest is None:
                return State()
            with reading(self.folder / "manifest.json", RERUN):
                return self._state(manifest)
        except Damaged as error:
            return State("damaged", says=str(error))

    def _state(self, manifest: dict[str, Any]) -> State:
        """The state of a run that has begun."""
        status, started = present_status(self.folder, manifest), str(manifest.get("started", ""))
        seconds = manifest.get("wall_time_s")
        seconds = None if seconds is None else float(seconds)
        if status in ("running", "stopped"):
            return State(status, started, process=progress.read(self.folder))
        if status in FINAL:
            check_log(self.folder)
        if status == "failed":
            return State(status, started, seconds, str(manifest.get("failure", "")))
        if status == "diverged":
            return State(status, started, seconds, f"diverged at step {manifest['diverged_at']}")
        says = _result(self.folder, self.result) if status == "finished" else ""
        return State(status, started, seconds, says)


def present_status(folder: Path, manifest: dict[str, Any]) -> str:
    """The status in a run's manifest, but ``stopped`` if the process of a running one is gone."""
    status = str(manifest["status"])
    if status != "running":
        return status
    process = progress.read(folder)
    return "running" if process and lives(process) else "stopped"


def _result(folder: Path, name: str | None) -> str:
    """The main number of a run's summary as text: the one that the task names, else the first.

    For a batch it is the median over the members that have the number, and the text says how many
    these are. A number of ``NEVER`` that nothing has reached is "never"; any other null is skipped,
    unless the task names it.
    """
    summary = read_summary(folder)
    if name is not None and name not in summary:
        return f"RESULT={name} is not in the summary: {', '.join(summary) or 'it is empty'}"
    for key in summary if name is None else [name]:
        values = summary[key] if isinstance(summary[key], list) else [summary[key]]
        numbers = sorted(v for v in values if isinstance(v, int | float))
        if numbers:
            text = f"{key} {numbers[(len(numbers) - 1) // 2]:.4g}"
            if len(values) == 1:
                return text
            if len(numbers) == len(values):
                return f"{text}, median of {len(values)} members"
            return f"{text}, median of the {len(numbers)} of {len(values)} members that have one"
        if key in NEVER:
            return f"{key} never"
    return "" if name is None else f"{name}: no number"


def lives(process: dict[str, Any]) -> bool:
    """Whether the process of a run is alive; a process on another machine counts as alive."""
    if process["host"] != socket.gethostname():
        return True
    try:
        if not psutil.pid_exists(process["pid"]):
            return False
        found = psutil.Process(process["pid"])
        # A zombie has ended, but its parent has not heard of it.
        if found.status() == psutil.STATUS_ZOMBIE:
            return False
        there = progress.began(found)
        return bool(process.get("began", there) == there)
    except OverflowError:  # a damaged file; no process has so large a number
        return False
    except psutil.Error as error:  # it has just ended, or belongs to somebody else
        return not isinstance(error, psutil.NoSuchProcess)


# Sweeps -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """The runs of one command line.

    Attributes:
        record: the file that :func:`launch.begin` wrote.
        command: the command line.
        processes: number of runs that it executes at a time.
        parent: the process that starts the runs, see :func:`progress.process`.
        runs: the runs in their order.
    """

    record: Path
    command: str
    processes: int
    parent: dict[str, Any]
    runs: list[RunFolder]

    @property
    def stop(self) -> Path:
        """A file whose existence means that the sweep has to end and no further run may begin.

        Its name contains the process, because another sweep may have the same runs.
        """
        return self.record.with_suffix(f".{self.parent['host']}.{self.parent['pid']}.stop")


def sweeps(output: Path) -> tuple[list[Sweep], list[Damaged]]:
    """Every sweep that has a record in an output folder, the newest last; and damaged records."""
    paths = (output / RECORDS).glob("*.json")
    found, damaged = [], []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        try:
            found.append(_recorded(path, output))
        except Damaged as error:
            damaged.append(error)
    return found, damaged


def _recorded(path: Path, output: Path) -> Sweep:
    """The sweep of a record."""
    with reading(path, "delete it; the command of the sweep writes it again"):
        record = json.loads(path.read_bytes())
        runs = [
            RunFolder(output / run["folder"], str(run["label"]), run["result"])
            for run in record["runs"]
        ]
        parent = progress.identity(record["parent"])
        return Sweep(path, str(record["command"]), int(record["processes"]), parent, runs)


def short_name(key: str) -> str:
    """A setting's name in tables and labels: ``optimizer.nu`` is nu, ``schedule.nu.end`` nu_end."""
    group, _, name = key.partition(".")
    return name.replace(".", "_") if group == "schedule" else name.rpartition(".")[2] or key


def overview(states: Sequence[State], processes: int, estimate: bool = True) -> str:
    """One line about all runs: ``12 of 63, 1 failed, 2 diverged, 3.1 h left``.

    Args:
        states: the states of the runs.
        processes: number of runs at a time.
        estimate: whether to say how much time is left.
    """
    counts = Counter(state.status for state in states)
    parts = [f"{sum(counts[name] for name in FINAL)} of {len(states)}"]
    parts += [
        f"{counts[name]} {name}"
        for name in ("failed", "diverged", "interrupted", "stopped", "damaged")
        if counts[name]
    ]
    if estimate and (seconds := left(states, processes)) is not None:
        parts.append(f"{duration(seconds)} left")
    return ", ".join(parts)


def left(states: Sequence[State], processes: int) -> float | None:
    """The estimated seconds until the last run ends, or None while there is no estimate.

    A waiting run is assumed to take as long as the mean of the runs that have ended, or, if none
    has, as the mean that is expected of those in progress.
    """
    under_way = [s.process or {} for s in states if s.status == "running"]
    waiting = sum(s.status == "waiting" for s in states)
    if not under_way and not waiting:
        return None
    ended = [s.seconds for s in states if s.status in FINAL and s.seconds is not None]
    rest = [p["seconds_left"] for p in under_way if p.get("seconds_left") is not None]
    whole = [
        p["seconds_left"] * p["total"] / (p["total"] - p["step"])
        for p in under_way
        if p.get("seconds_left")
    ]
    known = ended or whole
    if not known:
        return None
    mean = sum(known) / len(known)
    work = sum(rest) + mean * (waiting + len(under_way) - len(rest))
    return float(max([work / max(processes, 1), *rest]))


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.1 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(number: float) -> str:
    """A number of bytes: ``900 bytes``, ``1.3 MB``, ``12 GB``."""
    unit = "bytes"
    for larger in ("kB", "MB", "GB"):
        if number < 999.5:  # what is above is rounded to 1000
            break
        number, unit = number / 1000, larger
    tenths = number < 9.95 and unit != "bytes"
    return f"{number:.1f} {unit}" if tenths else f"{number:.0f} {unit}"


def how_far(state: State) -> str:
    """The progress of a run: ``1200 of 3000, 12 min left``; before its first step ``starts``."""
    process = state.process or {}
    if "step" not in process:
        return "starts"
    text = f"{process['step']} of {process['total']}"
    seconds = process["seconds_left"]
    return text if seconds is None else f"{text}, {duration(seconds)} left"
