"""The progress of a run, in a small file in its folder that any process can read."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

NAME = "progress.json"
EVERY = 1.0  # least number of seconds between two writes


def process() -> dict[str, Any]:
    """The host and the pid of this process, and when it began."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": began(psutil.Process())}


def began(process: psutil.Process) -> float:
    """When a process began, in seconds since its machine was started.

    It tells a process from a later one that got the same pid, also where the clock was set.
    """
    return round(float(process.create_time() - psutil.boot_time()), 2)


def identity(found: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`process` returned, from a file; older files do not say when it began."""
    named = {"host": str(found["host"]), "pid": int(found["pid"])}
    return named | ({"began": float(found["began"])} if "began" in found else {})


class Progress:
    """Writes the progress of a run: its process, its steps, and the time that is left.

    The file is deleted when the run ends. Errors of writing, such as a full disk, are
    ignored, since a run should not fail because of them.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._process = process()
        self._next = 0.0
        self._began: tuple[float, int] | None = None
        self._write({})

    def update(self, step: int, total: int) -> None:
        """Write that ``step`` of ``total`` steps are done, but at most once a second (EVERY)."""
        now = time.monotonic()
        if self._began is None:
            self._began = now, step
        if now < self._next:
            return
        self._next = now + EVERY
        since, first = self._began
        seconds = (now - since) / (step - first) * (total - step) if step > first else None
        self._write({"step": step, "total": total, "seconds_left": seconds})

    def _write(self, how_far: dict[str, Any]) -> None:
        temporary = self._path.with_name(f".{NAME}.new")
        with suppress(OSError):
            temporary.write_text(json.dumps(self._process | how_far), encoding="utf-8")
            temporary.replace(self._path)


def read(folder: Path) -> dict[str, Any] | None:
    """The progress that a run has written, or None if there is none that can be read."""
    try:
        found = json.loads((folder / NAME).read_bytes())
        process = identity(found)
        if "step" not in found:
            return process
        seconds = found["seconds_left"]
        process |= {"step": int(found["step"]), "total": int(found["total"])}
        return process | {"seconds_left": None if seconds is None else float(seconds)}
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return None
