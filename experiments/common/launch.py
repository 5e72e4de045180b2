"""Hand runs to Hydra's launchers (one process, joblib, submitit, Ray), and end them.

The settings of every run are complete before a launcher starts. A job is one run's settings as
JSON. Launchers ask a loader for the configuration of each job; :class:`Jobs` takes the place of
Hydra's own loader, which would read and compose the YAML files again.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch
from hydra._internal.callbacks import Callbacks  # no public way leads to what a launcher asks for
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.common.execution import execute, failure
from experiments.common.progress import process
from experiments.common.run import Interrupted
from experiments.common.settings import Settings, plain_settings, restored
from experiments.common.status import State, Sweep, read_manifest
from experiments.common.terminal import lasting_streams, say

PATIENCE = 5.0  # seconds that runs have to write down that they were ended at once


class Jobs:
    """Takes the place of Hydra's loader: the one override of a job is the job itself, as JSON."""

    def load_sweep_config(self, master: DictConfig, overrides: list[str]) -> DictConfig:
        """The launcher's configuration with the job in it."""
        config = copy.deepcopy(master)
        with open_dict(config):
            # OmegaConf reads a dollar sign as the beginning of a reference.
            config.job = overrides[0].replace("$", "\\u0024")
        return config


def launch(every: Sequence[Settings], hydra: DictConfig, sweep: Sweep) -> None:
    """Run all of these by the launcher that the command line names; returns when all have ended.

    Args:
        every: the runs.
        hydra: see :func:`config.hydra_settings`.
        sweep: the sweep that the runs belong to.
    """
    if not every:
        return
    shared = {"parent": sweep.parent, "stop": str(sweep.stop)}
    jobs = [[json.dumps(shared | {"settings": plain_settings(s)})] for s in every]
    config = copy.deepcopy(hydra)
    with open_dict(config):
        config.output = str(every[0].output)  # the launchers keep their files below it
    HydraConfig.instance().set_config(copy.deepcopy(config))  # which makes it read-only
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(config_loader=Jobs(), callbacks=Callbacks(config)),  # type: ignore[arg-type]
        task_function=run_job,
        config=config,
    )
    launcher.launch(jobs, initial_job_idx=0)


def run_job(config: DictConfig) -> None:
    """One run, in whatever process the launcher chose; a failed one does not stop the sweep."""
    job: dict[str, Any] = json.loads(config.job)
    if worker := process() != job["parent"]:
        lasting_streams()
        with suppress(ValueError):  # Ctrl-C is for the parent, which ends workers by SIGTERM
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, _interrupted)  # also before a run has begun its steps
    settings = restored(job["settings"])
    cpus = HydraConfig.get().launcher.get("cpus_per_task")  # submitit; joblib sees to it by itself
    if settings.threads is None and cpus:
        torch.set_num_threads(cpus)
    if not Path(job["stop"]).exists():
        try:
            run_one(settings)
        except Interrupted:
            if not worker:
                raise


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise Interrupted(128 + number)


def run_one(settings: Settings) -> None:
    """Execute one run; what it raises is in its manifest, or printed where that can't be written.

    Raises:
        Interrupted: after SIGINT or SIGTERM.
    """
    try:
        execute(settings)
    except Exception as error:
        if (read_manifest(settings.folder) or {}).get("status") != "failed":
            say(f"failed: {settings.folder}: {failure(error)}", sys.stderr)


def kind(launcher: DictConfig) -> str:
    """basic, joblib, local or slurm (both of submitit), ray; by the class of the launcher."""
    name = str(launcher._target_).rpartition(".")[2].removesuffix("Launcher").lower()
    return "ray" if name.startswith("ray") else name


def processes(launcher: DictConfig, runs: int) -> int:
    """How many of these runs a launcher has under way at a time, by its configuration."""
    name, cores = kind(launcher), os.cpu_count() or 1
    if name == "joblib":
        return int(launcher.n_jobs) if launcher.n_jobs > 0 else max(cores + 1 + launcher.n_jobs, 1)
    if name == "slurm":
        return int(launcher.array_parallelism)
    if name == "local":  # submitit starts all at once
        return runs
    if name == "ray":
        return int(OmegaConf.select(launcher, "ray.init.num_cpus") or cores)
    return 1


class Ending:
    """What Ctrl-C and SIGTERM do to a sweep whose runs are in other processes of this machine.

    The first has every run under way keep a checkpoint after its step, and no other begin. The
    second ends them at once; their newest checkpoint stays. ``follow`` is to be called now and
    then, since a run may begin in the moment of the signal.

    Attributes:
        number: of the signal; None until one arrives.
        advice: what the user can do then.
    """

    def __init__(self, sweep: Sweep, kind: str) -> None:
        self.number: int | None = None
        self.advice = "the same command goes on"
        if kind == "slurm":
            self.advice = "its jobs stay with SLURM: python -m scripts.status, squeue, scancel"
        self._sweep = sweep
        self._in_other_processes = kind in ("joblib", "local", "ray")
        self._told: set[int] = set()

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Listen to both signals meanwhile."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self._on_signal) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self.number = self.number is not None, number
        if not self._in_other_processes:
            raise Interrupted(128 + number)
        with suppress(OSError):  # a full disk; the launcher's own runs are told all the same
            self._sweep.stop.touch()
        if again:
            self._told.clear()
            self.follow([cell.look() for cell in self._sweep.cells])
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end and self._under_way():
                time.sleep(0.05)
            raise Interrupted(128 + number)
        with suppress(OSError):
            os.write(2, b"runs under way stop after their step; again to stop now\n")

    def _under_way(self) -> bool:
        return any(cell.look().status == "running" for cell in self._sweep.cells)

    def follow(self, states: Sequence[State]) -> None:
        """Tell runs under way that have not been told yet."""
        if self.number is None or not self._in_other_processes:
            return
        ours = {child.pid for child in psutil.Process().children(recursive=True)}
        for state in states:
            pid = (state.process or {}).get("pid")
            if state.status == "running" and pid in ours - self._told:
                self._told.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
