"""Execution of runs: each run once, under a lock, with a manifest that records its outcome."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

import laprop
from experiments.common import progress, tracking
from experiments.common.checkpoint import BEST, CHECKPOINTS
from experiments.common.data import DataError
from experiments.common.files import read_manifest, write, write_json
from experiments.common.messages import ConfigError, named
from experiments.common.provenance import device as device_of
from experiments.common.provenance import environment, keep_freed_memory
from experiments.common.run import Interrupted, Run, signals_to
from experiments.common.settings import Settings, plain_settings
from experiments.common.status import FINAL, RunFolder
from experiments.common.tasks import task_module
from experiments.common.versions import program, versions

# Folders of code that is not the user's: an error in it tells most by the line that called it.
NOT_THE_USERS = (
    *(
        os.path.join(folder, "")
        for folder in (
            *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
            str(Path(__file__).parent),
            str(Path(laprop.__file__).parent),
        )
    ),
    "<frozen",
    "<string>",  # what a dataclass generates
)


def execute(settings: Settings) -> str:
    """Execute a run unless it is finished, or another process is executing it.

    Returns:
        ``finished`` or ``diverged`` (now or by an earlier process), or ``busy``.

    Raises:
        ConfigError: the task or this machine refuses the settings.
        Interrupted: SIGINT or SIGTERM arrived.
        Exception: any error of the task. The manifest then has its traceback and the status
            ``failed``.
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
    """Execute the run; the caller holds its lock."""
    folder = settings.folder
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    keep_freed_memory()
    for unfinished in folder.glob(".*.new"):  # a killed process left it
        unfinished.unlink()
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
    write(
        folder / "config.yaml",
        yaml.safe_dump(plain_settings(settings), sort_keys=False).encode(),
    )
    run = None
    try:
        run = Run(settings)
        with signals_to(run._on_signal), in_float32():
            try:
                task_module(settings.task_name).train(settings.task, run)
            except SystemExit as stop:
                if _requeued(stop):
                    raise
                reason = stop.code if isinstance(stop.code, str) else f"sys.exit({stop.code})"
                raise RuntimeError(reason).with_traceback(stop.__traceback__) from stop
            manifest["status"] = run.finish()
    except (SystemExit, KeyboardInterrupt):
        manifest["status"] = "interrupted"
        raise
    except BaseException as error:
        if (interruption := _interruption(error)) is not None:
            manifest["status"] = "interrupted"
            raise interruption from None
        manifest |= {"status": "failed", "failure": failure(error), "error": traceback.format_exc()}
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
            if manifest["status"] in FINAL:  # before the tracker, which may take long or fail
                for name in (*CHECKPOINTS, BEST[1]):
                    (folder / name).unlink(missing_ok=True)
        finally:
            with suppress(OSError):  # without it a manifest that says running is not believed
                (folder / progress.NAME).unlink(missing_ok=True)
            if run is not None:  # after the manifest, which the tracker uploads
                run.close(completed=manifest["status"] in FINAL)
    if run._signal is not None:  # a signal in the last step: this run is done, but no other begins
        raise Interrupted(128 + run._signal)
    return str(manifest["status"])


def in_float32() -> AbstractContextManager[None]:
    """Let cuDNN compute in full float32: by default it rounds inputs to 10 bits (TF32)."""
    now = torch.backends.cudnn
    return now.flags(
        enabled=now.enabled,
        benchmark=now.benchmark,
        deterministic=now.deterministic,
        allow_tf32=False,
    )


def _requeued(stop: SystemExit) -> bool:
    """Whether an exit is that of submitit after it has put the job back into the queue.

    Any other one that is not Interrupted is the task's, or that of a library which it calls: that
    run has failed.
    """
    *_, (raised, _) = traceback.walk_tb(stop.__traceback__)
    return str(raised.f_globals.get("__name__")).partition(".")[0] == "submitit"


def _interruption(error: BaseException) -> Interrupted | None:
    """The Interrupted behind an error, or None; an import that a signal interrupts may wrap it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, Interrupted):
        cause = cause.__cause__ or cause.__context__
    return cause


def _environments(settings: Settings) -> list[dict[str, Any]]:
    """The machines and programs that made a run, in order; several only if it was resumed."""
    here = environment(device_of(settings.device)) | {"program": program(settings.task_name)}
    resumes = any((settings.folder / name).exists() for name in CHECKPOINTS)
    before = (read_manifest(settings.folder) or {}).get("environments", []) if resumes else []
    return before if here in before else [*before, here]


def failure(error: BaseException) -> str:
    """An error in one line: its type, its text, and the last line of the user's code before it.

    An error of input, of a damaged file or of missing data is only its text, which says what the
    user can do. An error of the disk outside of the user's code has no line.
    """
    if isinstance(error, ConfigError | DataError):
        return error.brief if isinstance(error, DataError) else str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(NOT_THE_USERS)]
    if isinstance(error, OSError) and not own:
        return named(error)
    place = (own or frames)[-1]
    return f"{named(error)} ({place.filename}:{place.lineno})"


def check(settings: Settings, here: bool = True) -> None:
    """Check, before anything begins, that a run can be executed.

    Args:
        settings: settings of the run.
        here: whether it will run on this machine, so that its device and packages can be checked.

    Raises:
        ConfigError: the device, the tracker or the output folder cannot be used, or
            :func:`check_task` refuses a setting; the message names the setting and what is allowed.
    """
    device, count = device_of(settings.device), torch.cuda.device_count()
    if here and device.type == "cuda" and (device.index or 0) >= count:
        allowed = ", ".join(["auto", "cpu", *(f"cuda:{i}" for i in range(count))])
        raise ConfigError(f"device={settings.device}: no such GPU here; allowed are {allowed}")
    if here:
        tracking.check(settings.tracking)
    check_task(settings)
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
        if not os.access(settings.output, os.W_OK | os.X_OK):
            raise PermissionError(0, "not writable")
    except OSError as error:
        raise ConfigError(
            f"output={settings.output}: {error.strerror}; must be a folder that can be written"
        ) from None


def check_task(settings: Settings) -> None:
    """Call the task's own function ``check(settings)``, if it has one.

    It refuses settings that are valid by the task's dataclass, but that the task cannot use.

    Raises:
        ConfigError: the message names the setting and what is allowed.
    """
    if own := getattr(task_module(settings.task_name), "check", None):
        own(settings)


def outcome(settings: Settings) -> str:
    """The outcome of a run: ``finished``, ``diverged``, ``busy`` or ``failed``.

    It only looks, because a lock that it took could keep another process from executing the run.
    """
    now = RunFolder(settings.folder, "").look().status
    if now in FINAL:
        return now
    return "busy" if now == "running" else "failed"


def unfinished(every: Sequence[Settings]) -> tuple[list[Settings], str]:
    """The runs that are not finished, and a line that counts all runs, finished and damaged ones.

    Args:
        every: the settings of the runs of a sweep.
    """
    todo = [settings for settings in every if status(settings) not in FINAL]
    counts = Counter(settings.task_name for settings in every)
    tasks = ", ".join(f"{count} of {task}" for task, count in counts.items())
    done = sum(outcome(settings) in FINAL for settings in every)
    damaged = len(every) - len(todo) - done  # their logs or summaries, as their manifests are whole
    line = f"runs: {tasks}; finished before: {done}"
    tracker = every[0].tracking.name
    if done and tracker != "none":
        line += f", of which tracking={tracker} sends nothing now"
    if damaged > 0:
        line += f"; damaged: {damaged}"
    return todo, line


def status(settings: Settings) -> str | None:
    """The status in the run's manifest, or None if there is no readable manifest."""
    manifest = read_manifest(settings.folder)
    return None if manifest is None else str(manifest["status"])
