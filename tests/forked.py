"""Processes that tests kill; a server imports everything once and forks a process for each."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch._dynamo  # torch.optim imports it at its first use, for seconds
from conftest import TOYS, toy_settings

import experiments
from experiments import __main__ as entry
from experiments.check import Kill, attempt
from experiments.common.execution import execute
from experiments.common.settings import Settings, Tracking

experiments.__path__ = [*experiments.__path__, str(TOYS)]


def sweep(arguments: Sequence[str]) -> None:
    """What a process of its own does: ``python -m experiments`` with these arguments."""
    sys.argv = ["python -m experiments", *arguments]
    sys.exit(entry.main())


def child(settings: Settings, limit: int | None = None) -> None:
    """What a process of its own does: execute a run, and exit with 1 where that fails.

    Args:
        settings: of the run.
        limit: bytes past which no file may grow, so that writing fails as on a full disk.
    """
    torch.set_num_threads(1)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        execute(settings)
    except Exception:
        sys.exit(1)


def tracked(
    folder: Path, tracker: str, runs: Sequence[dict[str, int]], killed_after: int | None
) -> None:
    """Run the toy task with a tracker below a folder, one run after another as in a sweep.

    Args:
        folder: the current folder and the home of the process.
        tracker: its name.
        runs: settings of the toy task for each run; one that fails is followed by the next.
        killed_after: the step after whose checkpoint the process dies.
    """
    os.chdir(folder)
    os.environ["HOME"] = str(folder)
    shared = {"_checkpoint_every": 0.0, "_tracking": Tracking(name=tracker, mode="offline")}
    kills = [] if killed_after is None else [Kill(killed_after, False)]
    for run in runs:
        settings = toy_settings(Path("outputs"), **run, **shared)
        attempt(settings, kills, [0, 0])
