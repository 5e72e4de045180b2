"""Start runs by Hydra's launchers (one process, joblib, submitit, Ray), and end them.

The settings of every run are complete before a launcher starts. A job is the settings of one run as
JSON. Launchers ask a loader for the configuration of each job; :class:`Jobs` replaces Hydra's own
loader, which would read and compose the YAML files again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch
from hydra._internal.callbacks import Callbacks  # a launcher needs it; there is no public name
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.common.execution import execute, failure
from experiments.common.files import read_manifest, write
from experiments.common.messages import ConfigError, shown
from experiments.common.overrides import literal
from experiments.common.progress import process
from experiments.common.run import Interrupted
from experiments.common.settings import Settings, plain_settings, restored
from experiments.common.status import RECORDS, RunFolder, State, Sweep, lives, short_name
from experiments.common.tables import described
from experiments.common.tasks import task_module
from experiments.common.terminal import lasting_streams, say

PATIENCE = 5.0  # seconds to wait for runs that were ended at once to write their status


class Jobs:
    """Replaces Hydra's loader: the only override of a job is the job itself, as JSON."""

    def load_sweep_config(self, master: DictConfig, overrides: list[str]) -> DictConfig:
        """A copy of the launcher's configuration that contains the job."""
        config = copy.deepcopy(master)
        with open_dict(config):
            # OmegaConf reads a dollar sign as the beginning of a reference.
            config.job = overrides[0].replace("$", "\\u0024")
        return config


def begin(every: Sequence[Settings], command: str, processes: int) -> Sweep:
    """Write the record of a new sweep of these runs, and return the sweep.

    Args:
        every: the settings of the runs.
        command: the command line.
        processes: number of runs that it executes at a time.

    Raises:
        OSError: the output folder does not take the record.
    """
    output = every[0].output
    name = hashlib.sha256(" ".join(s.key for s in every).encode()).hexdigest()[:12]
    runs = [
        RunFolder(s.folder, label, getattr(task_module(s.task_name), "RESULT", None))
        for s, label in zip(every, labels(every), strict=True)
    ]
    sweep = Sweep(output / RECORDS / f"{name}.json", command, processes, process(), runs)
    written = {
        "command": command,
        "processes": processes,
        "parent": sweep.parent,
        "runs": [
            {"folder": os.path.relpath(r.folder, output), "label": r.label, "result": r.result}
            for r in runs
        ],
    }
    sweep.record.parent.mkdir(parents=True, exist_ok=True)
    sweep.stop.unlink(missing_ok=True)
    write(sweep.record, json.dumps(written).encode())
    return sweep


def labels(every: Sequence[Settings]) -> list[str]:
    """A label for each run, with its optimizer and varying settings: ``laprop nu 0.9 seed 1``.

    A setting that is the same in all runs of one task and one optimizer, such as each optimizer's
    own epsilon, is left out. If there are several tasks, each label begins with the task.
    """
    flats = [described(settings).settings for settings in every]
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


def launch(every: Sequence[Settings], hydra: DictConfig, sweep: Sweep) -> None:
    """Execute all runs by the launcher of the command line; return when all have ended.

    Args:
        every: the settings of the runs.
        hydra: Hydra's settings, see :func:`config.hydra_settings`.
        sweep: the sweep that the runs belong to.
    """
    if not every:
        return
    # If this process is killed, the workers of other launchers end, but joblib's wait for ever.
    waits = kind(hydra.hydra.launcher) == "joblib"
    shared = {"parent": sweep.parent, "stop": str(sweep.stop), "waits": waits}
    jobs = [[json.dumps(shared | {"settings": plain_settings(s)})] for s in every]
    config = copy.deepcopy(hydra)
    with open_dict(config):
        # The launchers keep their files below this folder.
        config.output = literal(str(every[0].output))
    HydraConfig.instance().set_config(copy.deepcopy(config))  # a copy, as this makes it read-only
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(config_loader=Jobs(), callbacks=Callbacks(config)),  # type: ignore[arg-type]
        task_function=run_job,
        config=config,
    )
    launcher.launch(jobs, initial_job_idx=0)


def run_job(config: DictConfig) -> None:
    """Execute one run in the launcher's process; a run that fails does not stop the sweep."""
    job: dict[str, Any] = json.loads(config.job)
    if worker := process() != job["parent"]:
        lasting_streams()
        # Ctrl-C is for the parent, which ends its workers by SIGTERM. Outside of the main thread
        # signals cannot be set.
        with suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, _interrupted)  # for the time before a run's first step
        if job["waits"]:
            _end_without(**job["parent"])
    settings = restored(job["settings"])
    cpus = HydraConfig.get().launcher.get("cpus_per_task")  # submitit; joblib sets threads itself
    if settings.threads is None and cpus:
        torch.set_num_threads(cpus)
    if Path(job["stop"]).exists() or (job["waits"] and not lives(job["parent"])):
        return
    try:
        with _at_work:
            run_one(settings)
    except Interrupted:
        if not worker:
            raise


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise Interrupted(128 + number)


_at_work = threading.Lock()  # held while this process executes a run


@cache  # once in a process
def _end_without(**parent: Any) -> None:
    """Let this worker end, after the step of its run, when the process that started it is gone.

    :func:`terminal.end_with_parent` sends one signal. It would end the run, but not the worker.
    """

    def wait() -> None:
        while lives(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        with _at_work:
            os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def run_one(settings: Settings) -> None:
    """Execute one run. An error is recorded in its manifest, or printed if that is impossible.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived.
    """
    try:
        execute(settings)
    except Exception as error:
        if (read_manifest(settings.folder) or {}).get("status") != "failed":
            say(f"failed: {settings.folder}: {failure(error)}", sys.stderr)


def kind(launcher: DictConfig) -> str:
    """The kind of a launcher: basic, joblib, local or slurm (both of submitit), or ray."""
    name = str(launcher._target_).rpartition(".")[2].removesuffix("Launcher").lower()
    return "ray" if name.startswith("ray") else name


def processes(launcher: DictConfig, runs: int) -> int:
    """The number of runs that a launcher executes at a time, by its configuration.

    Raises:
        ConfigError: joblib is to use no process.
    """
    name = kind(launcher)
    if name == "joblib":
        import joblib

        if launcher.n_jobs == 0:
            raise ConfigError("hydra.launcher.n_jobs=0: must be a number of processes, or -1: all")
        return int(joblib.effective_n_jobs(launcher.n_jobs))
    if name == "slurm":
        return int(launcher.array_parallelism)
    if name == "local":  # submitit starts all at once
        return runs
    if name == "ray":
        return int(OmegaConf.select(launcher, "ray.init.num_cpus") or os.cpu_count() or 1)
    return 1


class Ending:
    """Handles Ctrl-C and SIGTERM for a sweep whose runs are in other processes of this machine.

    After the first signal, every run in progress writes a checkpoint after its step and ends, and
    no other run begins. A second signal ends the runs at once; their newest checkpoints are kept.
    Call ``follow`` regularly, since a run may begin at the moment of the signal.

    Attributes:
        number: number of the signal; None until one arrives.
        advice: how the user can go on, as the end of a message.
    """

    def __init__(self, sweep: Sweep, kind: str) -> None:
        self.number: int | None = None
        self.advice = "run the same command again to resume"
        if kind == "slurm":
            self.advice = "its jobs stay with SLURM: python -m scripts.status, squeue, scancel"
        self._sweep = sweep
        self._in_other_processes = kind in ("joblib", "local", "ray")
        self._told: set[int] = set()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal, see :func:`run.signals_to`.

        Raises:
            Interrupted: it is the second one, or the runs are in this process.
        """
        again, self.number = self.number is not None, number
        if not self._in_other_processes:
            raise Interrupted(128 + number)
        with suppress(OSError):  # such as a full disk; runs in progress get SIGTERM in any case
            self._sweep.stop.touch()
        if again:
            self._told.clear()
            self.follow([run.look() for run in self._sweep.runs])
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end and self._under_way():
                time.sleep(0.05)
            raise Interrupted(128 + number)
        with suppress(OSError):
            os.write(2, b"runs in progress stop after this step; a second signal stops them now\n")

    def _under_way(self) -> bool:
        return any(run.look().status == "running" for run in self._sweep.runs)

    def follow(self, states: Sequence[State]) -> None:
        """Send SIGTERM to the runs in progress that have not got it yet."""
        if self.number is None or not self._in_other_processes:
            return
        ours = {child.pid for child in psutil.Process().children(recursive=True)}
        for state in states:
            pid: int = (state.process or {}).get("pid", 0)
            if state.status == "running" and pid in ours - self._told:
                self._told.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
