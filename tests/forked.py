"""Processes that tests kill; a server imports everything once and forks a process for each."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import torch
import torch._dynamo  # torch.optim imports it at its first use, for seconds
from conftest import TOYS

import experiments
from experiments import __main__ as entry
from experiments.common.config import Settings
from experiments.common.execution import execute

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
