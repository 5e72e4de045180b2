"""The provenance of a result (commit, versions, hardware, memory), and the device of a run."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import laprop
from experiments.common import ROOT

PROGRAM = ("laprop", "experiments", "configs")  # the folders that a result depends on


def environment(place: torch.device) -> dict[str, Any]:
    """Commit, versions and hardware, as they are written to manifests.

    ``uncommitted_changes`` is None if this is not a git repository.
    """
    changes = _git("status", "--porcelain", "--", *PROGRAM)
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "laprop": laprop.__version__,
        },
        "hardware": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpu": gpu(place),
        },
    }


def gpu(place: torch.device) -> str | None:
    """The name of a GPU, ``cuda`` if it is not of this machine, or None for a CPU."""
    if place.type != "cuda":
        return None
    return torch.cuda.get_device_name(place) if torch.cuda.is_available() else "cuda"


@cache
def _git(*arguments: str) -> str | None:
    result = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    return result.stdout.strip() if result.returncode == 0 else None


@cache
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# The resident memory in bytes after the last collection of garbage, and the seconds of CPU time of
# the child processes that had ended at the last reset.
_before = {"resident": math.inf, "children": 0.0}
GROWN = 50_000_000  # bytes; collecting garbage takes a fifth of a second, so not for each run


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak memory, so that earlier runs of this process do not count, if possible."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    resident = _give_back()
    if resident > _before["resident"] + GROWN:
        gc.collect()  # earlier runs may have left memory in reference cycles
        _before["resident"] = _give_back()
    _before["resident"] = min(_before["resident"], resident)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(b"5")
    _before["children"] = _children_time()


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes since the reset: of the GPU if one is used, else of the largest process.

    The processes are this one and, if any has ended since the reset, its child processes, such as
    fairseq's. The system keeps one peak of all children, so it may be that of an earlier child. GPU
    memory is that of this process alone, so fairseq's, which is in a child, is not in it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    whose = [resource.RUSAGE_SELF]
    if _children_time() > _before["children"]:
        whose.append(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(who).ru_maxrss for who in whose) * unit


def _give_back() -> int:
    """Return freed memory to the system, and return the number of bytes still in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)
    return int(psutil.Process().memory_info().rss)


def _children_time() -> float:
    """Seconds of CPU time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks: page faults on new ones can take longer than the work."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD, bytes
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def device(name: str) -> torch.device:
    """The torch device of a setting; ``auto`` is a GPU if there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
