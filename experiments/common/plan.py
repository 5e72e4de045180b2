"""Estimates the cost of a sweep before anything runs (``plan=true``).

The estimate for a run is the mean cost of similar finished runs, in the output folder or in the
committed results: those with the same task, the same ``task.*`` settings, the same optimizer and as
many members, on the same GPU or on a CPU. If there is none, one run is begun in a temporary folder,
timed, and thrown away.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from experiments.common import RESULTS, data, progress
from experiments.common.checkpoint import BEST, CHECKPOINTS
from experiments.common.execution import unfinished
from experiments.common.files import RERUN, RESTORE, Damaged, read_manifest, read_settings, reading
from experiments.common.launch import run_one
from experiments.common.provenance import device, gpu
from experiments.common.records import Results
from experiments.common.settings import Settings, Tracking, plain_settings, restored
from experiments.common.status import FINAL, duration, size
from experiments.common.tables import described, rows, same
from experiments.common.terminal import end_with_parent, say
from experiments.common.versions import sources

TIMED = 15.0  # seconds for which a run is timed after its first steps
PATIENCE = 300.0  # largest number of seconds to wait for its first steps
# The files of a run that are deleted when it is finished, and the folder of fairseq's checkpoints.
TEMPORARY = {*CHECKPOINTS, BEST[1], progress.NAME, "fairseq"}


@dataclass(frozen=True)
class Cost:
    """The cost of one run.

    Attributes:
        seconds: wall time.
        memory: peak memory in bytes.
        disk: bytes of the files that remain; None if not known.
        by: the source of these numbers, in words.
    """

    seconds: float
    memory: int
    disk: int | None
    by: str


def plan(every: Sequence[Settings], processes: int) -> str:
    """The text of ``plan=true``: the number of runs and their cost.

    Args:
        every: the settings of the runs of the sweep.
        processes: number of runs at a time.
    """
    todo, counted = unfinished(every)
    lines = [counted]
    missing = [
        f"{name} ({size(data.artefact(name).bytes)})"
        for name in sorted({name for s in every for name in needed(s.task_name)})
        if data.locate(name) is None
    ]
    lines.append(f"data to be fetched: {', '.join(missing) or 'none'}")
    kinds: dict[str, list[Settings]] = {}
    for settings in todo:
        kinds.setdefault(alike(settings), []).append(settings)
    costs: list[tuple[int, Cost]] = []
    timed: dict[str, Cost | str] = {}
    said: Counter[str] = Counter()  # number of runs that each line is about
    for runs in kinds.values():
        first = runs[0]
        cost: Cost | str | None = by_manifests(first)
        if cost is None and not missing:  # one timed run serves for all optimizers
            task = alike(first, of_any_optimizer=True)
            cost = timed[task] = timed[task] if task in timed else by_a_beginning(first)
        if cost is None or isinstance(cost, str):
            why = cost or "its data is not here"
            said[f"{first.optimizer.name}: time not known, {why}"] += len(runs)
            continue
        costs.append((len(runs), cost))
        one = f"{duration(cost.seconds)}, {size(cost.memory)} of memory"
        said[f"{first.optimizer.name}: each {one}, by {cost.by}"] += len(runs)
    lines += [f"{count} x {text}" for text, count in said.items()]
    if sum(n for n, _ in costs) == len(todo) > 0:
        seconds = sum(n * cost.seconds for n, cost in costs)
        longest = max(cost.seconds for _, cost in costs)
        at_a_time = min(processes, len(todo))
        memory = at_a_time * max(cost.memory for _, cost in costs)
        known = [n * cost.disk for n, cost in costs if cost.disk is not None]
        wall = duration(max(seconds / at_a_time, longest))
        lines.append(
            f"all: {duration(seconds)} of work, {wall} with {at_a_time} at a time; "
            f"memory {size(memory)}; disk {size(sum(known)) if known else 'not known'}"
        )
    return "\n".join([*lines, "nothing was started"])


def alike(settings: Settings, of_any_optimizer: bool = False) -> str:
    """A text that is equal for runs of equal cost: task, optimizer, number of members, threads."""
    optimizer = None if of_any_optimizer else settings.optimizer.name
    members = sum(1 for _ in settings.members())
    task = settings.decisive()["task"]
    return json.dumps([task, optimizer, members, settings.threads], sort_keys=True)


def by_manifests(settings: Settings) -> Cost | None:
    """The mean cost of similar finished runs: in the output folder, else the committed ones."""
    finished = _finished(settings.output, settings.task_name)
    like_this = alike(settings), gpu(device(settings.device))
    if here := [cost for kind, cost in finished if kind == like_this]:
        return _mean(here, f"{len(here)} finished")
    found = _committed(settings)
    return _mean(found, f"{len(found)} in results/ ({found[0].by})") if found else None


@cache
def _finished(output: Path, task: str) -> list[tuple[tuple[str, str | None], Cost]]:
    """The cost of every finished run of a task in an output folder, after its kind and its GPU."""
    found = []
    for path in (output / task).glob("*/manifest.json"):
        # A run that is damaged, or whose settings do not fit the present task, does not count.
        with suppress(Damaged), reading(path, RERUN):
            manifest = read_manifest(path.parent) or {}
            if manifest.get("status") in FINAL:
                place = manifest["environments"][-1]["hardware"]["gpu"]
                kind = alike(restored(read_settings(path.parent))), place
                seconds, memory = float(manifest["wall_time_s"]), int(manifest["peak_memory_bytes"])
                found.append((kind, Cost(seconds, memory, weight(path.parent), "")))
    return found


def _committed(settings: Settings) -> list[Cost]:
    """The costs of similar runs of the same figure, scale and optimizer in the committed results.

    They are similar if the table contains the run's value of each ``task.*`` setting, and its runs
    have as many members and were on the same GPU, or on a CPU.
    """
    results = Results(RESULTS / str(settings.figure) / settings.scale)
    if not (results.folder / "manifest.json").exists():
        return []
    with reading(results.folder / "manifest.json", RESTORE):
        manifest = results.manifest
        run = described(settings)
        now = json.loads(json.dumps(run.settings, default=str))
        fixed = {
            key: value for key, value in manifest["settings"].items() if key.startswith("task.")
        }
        axes = {name: key for name, key in manifest["axes"].items() if key.startswith("task.")}
        table, members = results.every_run, rows(run, axes)
        like_this = all(now.get(key) == value for key, value in fixed.items())
        for name in axes:
            tried = table[name].unique().tolist()
            like_this &= all(any(same(x, value) for x in tried) for value in members[name].tolist())
        if not like_this or len(members) * len(manifest["runs"]) != len(table):
            return []
        found, place = [], gpu(device(settings.device))
        for done in manifest["runs"]:
            machines = [manifest["environments"][at]["hardware"] for at in done["environments"]]
            if done["optimizer"] == settings.optimizer.name and {
                machine["gpu"] for machine in machines
            } == {place}:
                by = f"CPU threads: {machines[-1]['threads']}"
                found.append(Cost(done["wall_time_s"], done["peak_memory_bytes"], None, by))
        return found


def _mean(costs: Sequence[Cost], by: str) -> Cost:
    seconds = sum(cost.seconds for cost in costs) / len(costs)
    disks = [cost.disk for cost in costs if cost.disk is not None]
    disk = sum(disks) // len(disks) if disks else None
    return Cost(seconds, max(cost.memory for cost in costs), disk, by)


def by_a_beginning(settings: Settings) -> Cost | str:
    """The cost extrapolated from the first steps of a run, or a text why there is none.

    The run is begun in a temporary folder.
    """
    wait = f"at most {duration(PATIENCE)}"
    say(f"timing the beginning of a run of {settings.task_name}, {wait}", sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        tried = replace(settings, output=Path(folder), tracking=Tracking())
        process = multiprocessing.get_context("spawn").Process(
            target=_begin, args=(plain_settings(tried),)
        )
        process.start()
        begun, first, memory = time.monotonic(), None, 0
        last: dict[str, Any] = {}
        try:
            while process.is_alive() and time.monotonic() < begun + PATIENCE:
                time.sleep(0.2)
                memory = max(memory, _memory(process.pid))
                last = progress.read(tried.folder) or last
                if first is None and last.get("seconds_left") is not None:
                    first = time.monotonic()
                if first is not None and time.monotonic() > first + TIMED:
                    break
            code, took = process.exitcode, time.monotonic() - begun  # code is None if it goes on
        finally:  # also after Ctrl-C
            process.terminate()
            process.join(10)
            process.kill()
            process.join()
        disk = weight(tried.folder)
        manifest = read_manifest(tried.folder) or {}
        if manifest.get("status") in FINAL:
            seconds = manifest["wall_time_s"]
        elif manifest.get("status") == "failed":
            return str(manifest["failure"])
        elif code is not None:
            by = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            return f"its process ended with {by}"
        elif first is None:
            return f"no step ended in {duration(PATIENCE)}"
        else:
            seconds = took + (last.get("seconds_left") or 0.0)
            if last.get("step"):  # only the log grows
                log = (tried.folder / "metrics.jsonl").stat().st_size
                disk += int(log * (last["total"] / last["step"] - 1))
    return Cost(seconds, memory, disk, f"a beginning of {duration(took)}")


def _begin(plain: dict[str, Any]) -> None:
    """Run in a process of its own until the parent ends it, or is killed."""
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # tqdm's own lock is a semaphore, which outlives the kill
    run_one(restored(plain))


def _memory(pid: int | None) -> int:
    """Memory in bytes of a process and of its child processes, such as fairseq's."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            total += member.memory_info().rss
    return total


def weight(folder: Path) -> int:
    """The size in bytes of the files in a run's folder that remain when the run is finished."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    kept = [name for name in names if name.suffix != ".new" and not TEMPORARY & {*name.parts}]
    return sum((folder / name).stat().st_size for name in kept)


def needed(task: str) -> set[str]:
    """The artefacts that a task's program names; a run may need only some of them."""
    text = " ".join(
        file.read_text(encoding="utf-8")
        for name, file in sources(task).items()
        if ".common." not in name
    )
    named = re.findall(r"\bdata\.(?:fetch\(\s*\"(\w+)\"|(\w+)\()", text)
    return {fetched or loaded for fetched, loaded in named} & set(data.ARTEFACTS)
