"""A small sweep as a process, for tests that do it harm."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import statuses

SEEDS, STEPS, PAUSE = range(4), 30, 0.05
AT_ONCE = {"TOY_PAUSE": "0"}  # where nothing has to happen in the midst of a cell
LAUNCHERS = {
    "basic": (),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1"),
    "ray": ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"),
}


class Sweep:
    """Four cells of the toy task, each of about two seconds, below a test's own folder."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "outputs"
        self.checkout = checkout
        self.before: list[str] = []  # a program that runs the sweep
        self.started: list[subprocess.Popen[bytes]] = []
        folder.mkdir(exist_ok=True)

    def start(
        self, *arguments: str, seeds: Sequence[int] = SEEDS, **env: str
    ) -> subprocess.Popen[bytes]:
        """The sweep in a session of its own; what it says goes to a file, which outlives it."""
        process = subprocess.Popen(
            [*self.before, sys.executable, "-m", "experiments", "-m", "task=toy",
             f"task.steps={STEPS}", f"task.pause={PAUSE}", "task.starts=starts", "threads=1",
             "checkpoint_every=0", f"seed={','.join(map(str, seeds))}", f"output={self.output}",
             *arguments],
            cwd=self.folder,
            env=os.environ
            | {"PYTHONPATH": str(self.checkout), "OMP_NUM_THREADS": "1", "HOME": str(self.folder)}
            | env,
            stdout=(self.folder / "out").open("wb"),
            stderr=(self.folder / "err").open("wb"),
            start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def end(self) -> None:
        """Kill whatever a failed test has left running."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def said(self) -> str:
        """What the last process printed, errors last."""
        return (self.folder / "out").read_text() + (self.folder / "err").read_text()

    def to_its_end(self, *arguments: str, **env: str) -> None:
        """Again and again, as a user would, until no cell is in another's hands."""
        for _ in range(20):
            assert self.start(*arguments, **env).wait(300) == 0, self.said()
            if "busy: 0" in self.said():
                return
        pytest.fail(f"never done: {self.said()}")

    def finished(self) -> dict[str, dict[str, Any]]:
        return {k: m for k, m in statuses(self.output).items() if m["status"] == "finished"}

    def starts(self) -> list[str]:
        """Keys, in the order in which their trainings began."""
        path = self.folder / "starts"
        return path.read_text().split() if path.exists() else []

    def numbers(self) -> dict[str, list[bytes]]:
        """What each finished cell came to, byte for byte."""
        names = ("summary.json", "metrics.jsonl", "layers.csv")
        return {
            key: [(self.output / "toy" / key / name).read_bytes() for name in names]
            for key in self.finished()
        }

    def lost(self, key: str) -> bool:
        """Whether a cell that was cut off has logged a step but has no checkpoint."""
        folder = self.output / "toy" / key
        log = folder / "metrics.jsonl"
        logged = log.exists() and log.stat().st_size > 0
        return logged and not (folder / "checkpoint.pt").exists()

    def take_one(self, other: Sweep) -> None:
        """Take over a finished cell of another sweep."""
        key = min(other.finished())
        shutil.copytree(other.output / "toy" / key, self.output / "toy" / key)

    def midway(self) -> bool:
        """Whether a cell is in the midst of its steps."""
        running = [k for k, m in statuses(self.output).items() if m["status"] == "running"]
        logs = (self.output / "toy" / key / "metrics.jsonl" for key in running)
        return any(log.exists() and 0 < log.read_bytes().count(b"\n") < STEPS - 5 for log in logs)

    def at_work(self, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """The processes below one that are in the midst of a cell: those that hold its log open."""
        found = []
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if any(file.path.endswith("metrics.jsonl") for file in child.open_files()):
                    found.append(child)
            except psutil.Error:  # it ended meanwhile
                pass
        return found
