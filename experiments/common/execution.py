"""Executing runs: each once, under a lock, with a manifest that says what became of it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from experiments.common.checkpoint import CHECKPOINTS, atomic, write_json
from experiments.common.config import ConfigError, Settings, task_module
from experiments.common.provenance import device as device_of
from experiments.common.provenance import environment, keep_freed_memory
from experiments.common.run import Interrupted, Run
from experiments.common.tracking import PACKAGES
from experiments.common.versions import program, versions

FINAL = ("finished", "diverged")  # statuses of a run that need not be run again


def execute(settings: Settings) -> str:
    """Run one setting unless it is finished, or another process is at it.

    Returns:
        ``finished`` or ``diverged`` (also where an earlier run was), or ``busy``.

    Raises:
        ConfigError: for settings that the task or this machine refuses.
        Interrupted: after SIGINT or SIGTERM.
        Exception: whatever the task raised; the traceback is in the manifest, status ``failed``.
    """
    if (done := status(settings)) in FINAL:
        return str(done)
    check(settings)
    settings.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(settings.folder / ".lock", timeout=0):
            # Another process may have finished it since.
            return str(done) if (done := status(settings)) in FINAL else _execute(settings)
    except Timeout:
        return "busy"


def _execute(settings: Settings) -> str:
    """The run itself, under the lock."""
    folder = settings.folder
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    keep_freed_memory()
    manifest = {
        "key": settings.key,
        "task": settings.task_name,
        "figure": settings.figure,
        "scale": settings.scale,
        "status": "running",
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "settings": settings.decisive(),
        "axes": list(settings.axes()),
        "versions": versions(settings.task_name),
        "environments": _environments(settings),
    }
    write_json(folder / "manifest.json", manifest)
    with atomic(folder / "config.yaml") as path:
        plain = json.loads(json.dumps(asdict(settings), default=str))  # paths as text
        path.write_text(yaml.safe_dump(plain, sort_keys=False))
    run = None
    try:
        run = Run(settings)
        with _signals(run._on_signal):
            task_module(settings.task_name).train(settings.task, run)
            manifest["status"] = run.finish()
    except (SystemExit, KeyboardInterrupt):  # Interrupted, or a scheduler's own way out
        manifest["status"] = "interrupted"
        raise
    except BaseException:
        manifest |= {"status": "failed", "error": traceback.format_exc()}
        raise
    finally:
        if run is not None:
            manifest |= {
                "diverged_at": run.diverged_at,
                "wall_time_s": round(run.wall_time, 3),
                "peak_memory_bytes": run.peak_memory,
            }
        try:
            with suppress(OSError) if sys.exc_info()[0] else nullcontext():
                write_json(folder / "manifest.json", manifest)
        finally:
            if run is not None:  # after the manifest, which the tracker takes along
                run.close(completed=manifest["status"] in FINAL)
    for name in CHECKPOINTS:
        (folder / name).unlink(missing_ok=True)
    if run._signal is not None:  # it came with the last step: this run is done, no other begins
        raise Interrupted(128 + run._signal)
    return str(manifest["status"])


def _environments(settings: Settings) -> list[dict[str, Any]]:
    """Where and by which program a run was made, in order: more than one where it was resumed."""
    here = environment(device_of(settings.device)) | {"program": program(settings.task_name)}
    resumes = any((settings.folder / name).exists() for name in CHECKPOINTS)
    before = (read_manifest(settings.folder) or {}).get("environments", []) if resumes else []
    return before if here in before else [*before, here]


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGINT and SIGTERM go to ``handler``."""
    try:
        before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever owns it handles signals
        before = {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def check(settings: Settings) -> None:
    """Whether this machine can do it: the device, the output folder, the tracker.

    Raises:
        ConfigError: names the setting and what is allowed.
    """
    device, count = device_of(settings.device), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        allowed = ", ".join(["auto", "cpu", *(f"cuda:{i}" for i in range(count))])
        raise ConfigError(f"device={settings.device}: no such GPU here; allowed are {allowed}")
    tracker = settings.tracking.name
    if tracker in PACKAGES and importlib.util.find_spec(tracker) is None:
        raise ConfigError(
            f"tracking={tracker}: not installed; pip install 'laprop[{tracker}]' first"
        )
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
        if not os.access(settings.output, os.W_OK | os.X_OK):
            raise PermissionError(0, "not writable")
    except OSError as error:
        raise ConfigError(
            f"output={settings.output}: {error.strerror}; must be a folder that can be written"
        ) from None


def outcome(settings: Settings) -> str:
    """What became of a run: ``finished``, ``diverged``, ``busy`` or ``failed``."""
    done = status(settings)
    if done in FINAL:
        return str(done)
    if settings.folder.exists():
        try:
            with FileLock(settings.folder / ".lock", timeout=0):
                pass
        except Timeout:
            return "busy"
    return "failed"


def status(settings: Settings) -> str | None:
    """What the run's manifest says, or None where there is none that can be read."""
    manifest = read_manifest(settings.folder)
    return None if manifest is None else str(manifest["status"])


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run's folder, or None where there is none that can be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return dict(manifest) if "status" in manifest else None
    except (OSError, ValueError, TypeError):
        return None
