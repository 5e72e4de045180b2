"""How far a run has come: a small file in its folder, for whoever looks, from any process."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = "progress.json"
EVERY = 1.0  # seconds between two writings, at least


def process() -> dict[str, Any]:
    """The machine and the number of this process."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


class Progress:
    """What a run under way says of itself: its process, its steps, and the time that is left.

    The file is gone when the run has ended well. A full disk or the like is no reason for a run
    to fail, so that what cannot be written is left out.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._next = 0.0
        self._began: tuple[float, int] | None = None
        self._write({})

    def update(self, step: int, total: int) -> None:
        """Say that ``step`` of ``total`` steps are done; costs nothing if asked too often."""
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
            temporary.write_text(json.dumps(process() | how_far))
            temporary.replace(self._path)


def read(folder: Path) -> dict[str, Any] | None:
    """What a run says of itself, or None where it says nothing."""
    try:
        return dict(json.loads((folder / NAME).read_text()))
    except (OSError, ValueError):
        return None
