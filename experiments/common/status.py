"""The state of a sweep, read from the files of its runs, in the same way for every launcher.

A sweep writes a record of its runs to ``<output>/.sweep/<name>.json``. Everything else is read from
the runs' own folders, so any process that sees the output folder can report the state. Nothing here
needs torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from experiments.common import progress
from experiments.common.messages import shown

if TYPE_CHECKING:
    from experiments.common.settings import Settings

FINAL = ("finished", "diverged")  # statuses of a run that need not be run again
RECORDS = ".sweep"  # folder of the records, in the output folder


@dataclass(frozen=True)
class State:
    """The state of one run at one moment.

    Attributes:
        status: waiting, running, finished, diverged, failed, interrupted (by a signal), or
            stopped (its process ended without writing a status: it was killed, or the machine went
            down).
        started: time of its start from the manifest; empty before.
        seconds: wall time of a run that has ended.
        says: its main result, the step at which it diverged, or the error with file and line.
        process: the process and progress of a run in progress, see :class:`progress.Progress`.
    """

    status: str = "waiting"
    started: str = ""
    seconds: float | None = None
    says: str = ""
    process: dict[str, Any] | None = None


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its folder, and a label of the settings that distinguish it."""

    folder: Path
    label: str
    result: str | None = None  # name of the main result, if the task defines one

    def look(self) -> State:
        """The present state of the run."""
        manifest = read_manifest(self.folder)
        if manifest is None:
            return State()
        status, started = manifest["status"], manifest.get("started", "")
        seconds = manifest.get("wall_time_s")
        if status == "running":
            process = progress.read(self.folder)
            status = "running" if process and lives(process) else "stopped"
            return State(status, started, process=process)
        if status == "failed":
            return State(status, started, seconds, manifest.get("failure", ""))
        if status == "diverged":
            return State(status, started, seconds, f"diverged at step {manifest['diverged_at']}")
        says = _result(self.folder, self.result) if status == "finished" else ""
        return State(status, started, seconds, says)


def _result(folder: Path, name: str | None) -> str:
    """The main number of a run's summary as text: the one that the task names, else the first.

    For a batch it is the median over the members that have the number.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return ""
    for key in [name] if name in summary else summary:
        values = summary[key] if isinstance(summary[key], list) else [summary[key]]
        numbers = sorted(v for v in values if isinstance(v, int | float))
        if numbers:
            median = numbers[(len(numbers) - 1) // 2]
            batch = f" (median of {len(values)})" if len(values) > 1 else ""
            return f"{key} {median:.4g}{batch}"
    return ""


def lives(process: dict[str, Any]) -> bool:
    """Whether the process of a run is alive; a process on another machine counts as alive."""
    return process["host"] != socket.gethostname() or psutil.pid_exists(process["pid"])


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in a run's folder, or None if there is no readable one."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return dict(manifest) if "status" in manifest else None
    except (OSError, ValueError, TypeError):
        return None


# Sweeps -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """The runs of one command line.

    Attributes:
        record: the file that :func:`begin` wrote.
        command: the command line.
        processes: number of runs that it executes at a time.
        parent: host and pid of the process that starts the runs.
        cells: its runs in their order.
    """

    record: Path
    command: str
    processes: int
    parent: dict[str, Any]
    cells: list[Cell]

    @property
    def stop(self) -> Path:
        """A file whose existence means that the sweep has to end and no further run may begin."""
        return self.record.with_suffix(".stop")


def begin(every: Sequence[Settings], command: str, processes: int) -> Sweep:
    """Write the record of a new sweep of these runs, and return the sweep."""
    from experiments.common.settings import (
        task_module,  # imports torch, which reading does not need
    )

    output = every[0].output
    name = hashlib.sha256(" ".join(s.key for s in every).encode()).hexdigest()[:12]
    sweep = Sweep(
        output / RECORDS / f"{name}.json",
        command,
        processes,
        progress.process(),
        [
            Cell(s.folder, label, getattr(task_module(s.task_name), "RESULT", None))
            for s, label in zip(every, labels(every), strict=True)
        ],
    )
    runs = [
        {"folder": os.path.relpath(cell.folder, output), "label": cell.label, "result": cell.result}
        for cell in sweep.cells
    ]
    sweep.record.parent.mkdir(parents=True, exist_ok=True)
    sweep.stop.unlink(missing_ok=True)
    temporary = sweep.record.with_suffix(f".{os.getpid()}.new")
    written = {"command": command, "processes": processes, "parent": sweep.parent, "runs": runs}
    temporary.write_text(json.dumps(written))
    temporary.replace(sweep.record)
    return sweep


def sweeps(output: Path) -> list[Sweep]:
    """Every sweep that has a record in an output folder, the newest last."""
    paths = (output / RECORDS).glob("*.json")
    found = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        record = json.loads(path.read_text())
        cells = [
            Cell(output / run["folder"], run["label"], run["result"]) for run in record["runs"]
        ]
        found.append(Sweep(path, record["command"], record["processes"], record["parent"], cells))
    return found


def short_name(key: str) -> str:
    """A setting's name in tables and labels: ``optimizer.nu`` is nu, ``schedule.nu.end`` nu_end."""
    group, _, name = key.partition(".")
    return name.replace(".", "_") if group == "schedule" else name.rpartition(".")[2] or key


def labels(every: Sequence[Settings]) -> list[str]:
    """A label for each run, with its optimizer and varying settings: ``laprop nu 0.9 seed 1``.

    A setting that is the same in all runs of one task and one optimizer, such as each optimizer's
    own epsilon, is left out. If there are several tasks, each label begins with the task.
    """
    flats = []
    for settings in every:
        optimizer = asdict(settings.optimizer)
        options = optimizer.pop("options") or {}
        del optimizer["definition"]
        groups = {"optimizer": optimizer | options, "task": asdict(settings.task)}
        for name, part in settings.decisive().get("schedule", {}).items():
            groups[f"schedule.{name}"] = part
        flat = {f"{group}.{k}": v for group, inner in groups.items() for k, v in inner.items()}
        flats.append(flat | {"seed": settings.seed})
    keys = dict.fromkeys(key for flat in flats for key in flat)
    varying = []
    for key in keys:
        by_kind: dict[tuple[str, str], set[str]] = {}
        for settings, flat in zip(every, flats, strict=True):
            kind = settings.task_name, settings.optimizer.name
            by_kind.setdefault(kind, set()).add(shown(flat.get(key)))
        if any(len(values) > 1 for values in by_kind.values()):
            varying.append(key)
    several = len({settings.task_name for settings in every}) > 1
    lines = []
    for settings, flat in zip(every, flats, strict=True):
        words = [settings.task_name] if several else []
        words.append(settings.optimizer.name)
        for key in varying:
            if flat.get(key) is not None:
                words.append(f"{short_name(key)} {shown(flat[key])}")
        lines.append(" ".join(words))
    return lines


def overview(states: Sequence[State], processes: int) -> str:
    """One line about all runs: ``12 of 63, 1 failed, 2 diverged, 3.1 h left``."""
    counts = Counter(state.status for state in states)
    parts = [f"{sum(counts[name] for name in FINAL)} of {len(states)}"]
    parts += [
        f"{counts[name]} {name}"
        for name in ("failed", "diverged", "interrupted", "stopped")
        if counts[name]
    ]
    if (seconds := left(states, processes)) is not None:
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
    return max([work / max(processes, 1), *rest])


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.1 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def how_far(state: State) -> str:
    """The progress of a run: ``1200 of 3000, 12 min left``; before its first step ``starts``."""
    process = state.process or {}
    if "step" not in process:
        return "starts"
    text = f"{process['step']} of {process['total']}"
    seconds = process["seconds_left"]
    return text if seconds is None else f"{text}, {duration(seconds)} left"
