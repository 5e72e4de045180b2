"""A run: what all tasks share, whatever their training loop looks like.

A task's ``train(cfg, run)`` keeps its loop in the open and asks the run for the device, the seeded
generators, the optimizer, the steps still to do, and a place for its numbers. In return a run
that is killed at any moment continues where its last checkpoint stands, and ends with the same
numbers as one that was left alone.

Folder of a run, ``<output>/<task>/<key>/``:

======================  ==========================================================================
``config.yaml``         the settings, resolved
``manifest.json``       status, wall time, peak memory, commit, versions, hardware
``metrics.jsonl``       one JSON object per ``run.log``; grows by appending
``summary.json``        the numbers of ``run.summary``; for a batch one list entry per member
``<name>.csv``          a table of ``run.table``
``checkpoint.pt``       only while the run is unfinished; ``checkpoint.old.pt`` is the one before
======================  ==========================================================================
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import itertools
import json
import math
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

import laprop
from experiments.common.config import ROOT, ConfigError, Settings, task_module
from experiments.common.tracking import Tracker

PROGRAM = ("laprop", "experiments", "configs")  # what a result is made by
CHECKPOINTS = ("checkpoint.pt", "checkpoint.old.pt")  # the newest first
FINAL = ("finished", "diverged")  # statuses of a run that need not be run again


class Interrupted(SystemExit):
    """SIGINT or SIGTERM arrived; the process ends with 128 + its number, the run resumes later."""


class Grid:
    """The members of a vectorised run: the product of all axes, as one column per axis.

    ``grid["optimizer.nu"]`` is a float64 tensor of shape (B,), ``grid["seed"]`` an int64 one,
    an axis of strings a NumPy array of shape (B,). The last axis of the task's ``AXES`` changes
    fastest. ``len(grid)`` is B; 1 where no setting is a list.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        axes = settings.axes()
        self.frame = pd.DataFrame(settings.members(), columns=list(axes))
        self._device = device
        self._optimizer = settings.optimizer

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, axis: str) -> Any:
        values = self.frame[axis].to_numpy()
        if values.dtype.kind not in "fi":
            return values
        return torch.from_numpy(values.copy()).to(self._device)

    def hyper(self) -> dict[str, Any]:
        """What ``laprop.functional``'s steps take: lr, mu, nu, epsilon, each (B,); the decay."""
        names = ("lr", "mu", "nu", "epsilon")
        values: dict[str, Any] = {name: self[f"optimizer.{name}"] for name in names}
        factor = values["lr"] if self._optimizer.decay_by_lr else 1.0
        return values | {"weight_decay": self._optimizer.weight_decay * factor}

    def codes(self, axis: str) -> tuple[list[Any], Tensor]:
        """The distinct values of an axis and, per member, the index into them, shape (B,)."""
        codes, values = pd.factorize(self.frame[axis])
        return values.tolist(), torch.from_numpy(codes.astype(np.int64)).to(self._device)


class Run:
    """One run of one task. Made by :func:`execute`; tasks only use it.

    Args:
        settings: validated settings; ``run.config`` gives them back.

    Attributes:
        config: the settings.
        device: where to train.
        grid: the members of a vectorised task, see :class:`Grid`.
        folder: the run's own folder.
    """

    def __init__(self, settings: Settings) -> None:
        self.config = settings
        self.folder = settings.folder
        self.device = _device(settings.device)
        self.grid = Grid(settings, self.device)
        self.diverged_at: int | None = None
        self._step = 0
        self._tracked: dict[str, Any] = {}
        self._generators: dict[str, torch.Generator] = {}
        self._summary: dict[str, Any] = {}
        self._looping = False
        self._signal: int | None = None
        self._verified = False
        self._started = self._saved_at = time.monotonic()
        _reset_peak_memory(self.device)
        self._checkpoint = _load_checkpoint(self.folder) or {}
        self._generator_states: dict[str, Tensor] = {}  # saved ones that are yet to be asked for
        self._wall_before = self._checkpoint.get("wall_time", 0.0)
        self._peak_before = self._checkpoint.get("peak_memory", 0)
        # Records younger than the checkpoint come again.
        self._metrics = (self.folder / "metrics.jsonl").open("ab")
        self._metrics.truncate(self._checkpoint.get("metrics_bytes", 0))
        self._metrics.seek(0, os.SEEK_END)
        self._tracker = Tracker(settings)
        self._seed_globals()  # after the tracker: what it draws is its own affair

    # Randomness and optimizer

    def _seed_globals(self) -> None:
        seed = _seed_of(self._seed_text(), "global")
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  libraries that draw from it are to be seeded
        torch.manual_seed(seed)

    def _seed_text(self) -> str:
        return str(self.config.seed)

    def generator(
        self, name: str, seed: int | None = None, device: str | torch.device = "cpu"
    ) -> torch.Generator:
        """A stream of its own for each purpose, so that one more draw here shifts nothing there.

        Args:
            name: purpose, for instance ``"batches"``; the stream depends on it and on the seed.
            seed: default the run's; a vectorised task passes each member's.
            device: CPU by default, so that the numbers are the same on every machine.

        Returns:
            a generator whose state is part of the checkpoint; the same one for the same arguments.
        """
        text = self._seed_text() if seed is None else str(seed)
        key = f"{name}/{text}"
        if key not in self._generators:
            generator = torch.Generator(device).manual_seed(_seed_of(text, name))
            if key in self._generator_states:
                generator.set_state(self._generator_states.pop(key))
            self._generators[key] = generator
        return self._generators[key]

    def optimizer(
        self, params: Any, *, fused: bool | None = None, **changes: Any
    ) -> torch.optim.Optimizer:
        """The optimizer of the settings, as a torch optimizer.

        Args:
            params: parameters or groups, as for any torch optimizer.
            fused: of torch's Adam, which is fused on request alone. LaProp chooses by itself: its
                kernel on a CPU, lists of tensors on a GPU.
            changes: hyper-parameters in the settings' names to be changed, ``lr=...``.
        """
        h = asdict(self.config.optimizer) | changes
        shared = {"lr": h["lr"], "betas": (h["mu"], h["nu"]), "eps": h["epsilon"]}
        decay, decay_by_lr = h["weight_decay"], h["decay_by_lr"]
        if h["name"] in ("adam", "amsgrad"):
            if decay and not decay_by_lr:
                raise ConfigError(
                    f"optimizer.decay_by_lr=False: torch's {h['name']} scales the decay by lr; "
                    "set optimizer.decay_by_lr=true"
                )
            return torch.optim.AdamW(
                params,
                **shared,
                weight_decay=decay,
                amsgrad=h["name"] == "amsgrad",
                fused=fused,
            )
        return laprop.LaProp(
            params,
            **shared,
            weight_decay=decay,
            decay_by_lr=decay_by_lr,
            amsgrad=h["name"] == "amsprop",
        )

    # Steps, checkpoints

    def track(self, **things: Any) -> None:
        """Name what a checkpoint saves and a resumed run gets back, before :meth:`steps`.

        Args:
            things: objects with ``state_dict`` and ``load_state_dict``; tensors, which are
                overwritten in place; torch generators; or dictionaries (of dictionaries, lists,
                tuples) of tensors, numbers and strings, whose content is replaced.
        """
        for name, thing in things.items():
            if not (
                hasattr(thing, "load_state_dict")
                or isinstance(thing, Tensor | torch.Generator | MutableMapping)
            ):
                raise TypeError(f"run.track({name}=...) cannot restore a {type(thing).__name__}")
        self._tracked |= things

    def steps(self, total: int) -> Iterator[int]:
        """The steps still to do, out of ``range(total)``; ends early once diverged.

        Between two steps the run is checkpointed every ``checkpoint_every`` seconds, and when
        SIGINT or SIGTERM arrives, after which the process ends.
        """
        self._restore()
        label = f"{self.config.task_name} {self.config.optimizer.name} {self.config.key[:6]}"
        bar = tqdm(total=total, initial=self._step, desc=label, disable=None, leave=False)
        self._looping = True
        try:
            while self._step < total and self.diverged_at is None:
                yield self._step
                self._step += 1
                bar.update()
                if self._signal is not None:
                    self.checkpoint()
                    raise Interrupted(128 + self._signal)
                if time.monotonic() - self._saved_at >= self.config.checkpoint_every:
                    self.checkpoint()
        finally:
            self._looping = False
            bar.close()

    def checkpoint(self) -> None:
        """Write the checkpoint now. The one before it is kept until the next."""
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        state = {
            "step": self._step,
            "diverged_at": self.diverged_at,
            "summary": self._summary,
            "metrics_bytes": self._metrics.tell(),
            "wall_time": self.wall_time,
            "peak_memory": self.peak_memory,
            "tracked": {name: _state_of(thing) for name, thing in self._tracked.items()},
            "generators": self._generator_states
            | {name: g.get_state() for name, g in self._generators.items()},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            "numpy": _plain_numpy_state(),
            "python": random.getstate(),
        }
        current = self.folder / "checkpoint.pt"
        with _atomic(current) as path:
            _save(state, path)
            if not self._verified:  # better to learn now what cannot be loaded than after a crash
                _load(path, mmap=True)
                self._verified = True
            if current.exists():
                current.replace(self.folder / "checkpoint.old.pt")
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        saved, self._checkpoint = self._checkpoint, {}
        if not saved:
            return
        self._step, self.diverged_at = saved["step"], saved["diverged_at"]
        self._summary = saved["summary"]
        for name, thing in self._tracked.items():
            _restore_into(thing, saved["tracked"][name], self.device)
        self._generator_states = saved["generators"]
        for name, generator in self._generators.items():
            generator.set_state(self._generator_states.pop(name))
        torch.set_rng_state(saved["torch"])
        if saved["cuda"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all(saved["cuda"])
        name, keys, *rest = saved["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
        random.setstate(saved["python"])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """In the loop the next step boundary answers; elsewhere, and if asked again, at once."""
        if not self._looping or self._signal is not None:
            raise Interrupted(128 + number)
        self._signal = number

    # Numbers

    def log(self, step: int, **metrics: Any) -> None:
        """Append one record to ``metrics.jsonl``.

        Args:
            step: the record's position, in the task's own unit (updates, epochs, frames).
            metrics: each a number, or in a vectorised run B numbers; NaN and infinities become
                ``null``: a curve ends there, and :meth:`diverged` says why.
        """
        record = {"step": step} | self._plain(metrics)
        self._metrics.write((json.dumps(record, allow_nan=False) + "\n").encode())
        self._metrics.flush()
        self._tracker.log(record)

    def summary(self, **values: Any) -> None:
        """Set final numbers, which become this run's columns in ``runs.csv``; later calls win.

        Args:
            values: each a number or a string, or in a vectorised run B of them.
        """
        self._summary |= self._plain(values)

    def _plain(self, numbers: dict[str, Any]) -> dict[str, Any]:
        plain = {name: _plain(value) for name, value in numbers.items()}
        for name, value in plain.items():
            if isinstance(value, list) and len(value) != len(self.grid):
                raise ValueError(f"{name}: {len(value)} numbers for {len(self.grid)} members")
        return plain

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Keep a small extra table as ``<name>.csv``; collected beside ``runs.csv``."""
        with _atomic(self.folder / f"{name}.csv") as path:
            frame.to_csv(path, index=False)

    def diverged(self, loss: float | Tensor, step: int, limit: float = math.inf) -> bool:
        """Whether ``loss`` is NaN, infinite or above ``limit``; if so the run ends as diverged.

        Divergence is a result: status ``diverged``, with the step in the manifest and in
        ``runs.csv``. Vectorised tasks keep their members' own account instead.
        """
        value = float(loss.detach() if isinstance(loss, Tensor) else loss)
        if math.isfinite(value) and value <= limit:
            return False
        self.diverged_at = step
        return True

    # The end

    @property
    def wall_time(self) -> float:
        """Seconds of work that the result rests on: of this process and of those it resumes."""
        return float(self._wall_before + time.monotonic() - self._started)

    @property
    def peak_memory(self) -> int:
        """Bytes: the GPU's where there is one, else the resident set; the largest over resumes."""
        return max(self._peak_before, _peak_memory(self.device))

    def finish(self) -> str:
        """Write the summary; returns the status, ``finished`` or ``diverged``."""
        os.fsync(self._metrics.fileno())  # a full network disk may say so only now
        write_json(self.folder / "summary.json", self._summary)
        return "finished" if self.diverged_at is None else "diverged"

    def close(self, completed: bool) -> None:
        """Let go of the log and the tracker, however the run ended."""
        with suppress(OSError):  # what a full disk refused has been reported already
            self._metrics.close()
        self._tracker.finish(self._summary, completed)


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
        **environment(settings.device),
    }
    write_json(folder / "manifest.json", manifest)
    with _atomic(folder / "config.yaml") as path:
        plain = asdict(settings) | {"output": str(settings.output)}
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
    device, count = _device(settings.device), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        allowed = ", ".join(["auto", "cpu", *(f"cuda:{i}" for i in range(count))])
        raise ConfigError(f"device={settings.device}: no such GPU here; allowed are {allowed}")
    if settings.tracking.name == "wandb" and importlib.util.find_spec("wandb") is None:
        raise ConfigError("tracking=wandb: not installed; pip install 'laprop[wandb]' first")
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
    try:
        return str(json.loads((settings.folder / "manifest.json").read_text())["status"])
    except (OSError, ValueError, KeyError):
        return None


# Provenance ---------------------------------------------------------------------------------------


def environment(device: str) -> dict[str, Any]:
    """Commit, versions and hardware, as the manifest carries them."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", *PROGRAM)),
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
            "gpu": torch.cuda.get_device_name() if _device(device).type == "cuda" else None,
        },
    }


@cache
def _git(*arguments: str) -> str | None:
    result = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() if result.returncode == 0 else None


@cache
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _reset_peak_memory(device: torch.device) -> None:
    """Forget the runs before this one in the same process, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_freed_memory() -> None:
    """Have glibc reuse large blocks: a page fault on every temporary costs more than its work."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD, bytes
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _seed_of(seed: str, name: str) -> int:
    """64 bits that depend on both, so that neighbouring seeds share no stream."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# Files --------------------------------------------------------------------------------------------


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends well."""
    temporary = path.with_name(f".{path.name}.new")  # one writer: whoever has the folder's lock
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    with _atomic(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")


def _save(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # a full disk, say, under torch's own error
                raise error.__context__ from None
            raise


def _load(path: Path, mmap: bool = False) -> dict[str, Any]:
    return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=mmap))


def _load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None."""
    log = folder / "metrics.jsonl"
    written = log.stat().st_size if log.exists() else 0
    found = [path for name in CHECKPOINTS if (path := folder / name).exists()]
    for path in found:
        try:
            saved = _load(path)
        except Exception as error:  # torch raises many kinds for a damaged file
            print(f"{path}: damaged, left aside ({type(error).__name__})", file=sys.stderr)
            continue
        if saved["metrics_bytes"] <= written:
            return saved
        print(f"{path}: newer than {log.name}, left aside", file=sys.stderr)
    if found:
        print(f"{folder}: no checkpoint is whole, starts anew", file=sys.stderr)
    return None


def _state_of(thing: Any) -> Any:
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    return thing.state_dict() if hasattr(thing, "state_dict") else thing


def _restore_into(thing: Any, state: Any, device: torch.device) -> None:
    if hasattr(thing, "load_state_dict"):
        thing.load_state_dict(state)
    elif isinstance(thing, torch.Generator):
        thing.set_state(state)
    elif isinstance(thing, Tensor):
        with torch.no_grad():
            thing.copy_(state)
    else:
        placed = _placed(state, dict(thing), device)
        thing.clear()
        thing.update(placed)


def _placed(state: Any, like: Any, device: torch.device) -> Any:
    """``state`` with its tensors where those of ``like`` are; where it has none, on ``device``."""
    if isinstance(state, Tensor):
        return state.to(like.device if isinstance(like, Tensor) else device)
    if isinstance(state, dict):
        like = like if isinstance(like, dict) else {}
        return {key: _placed(value, like.get(key), device) for key, value in state.items()}
    if isinstance(state, list | tuple):
        like = like if isinstance(like, list | tuple) else ()
        pairs = itertools.zip_longest(state, like[: len(state)])
        return type(state)(_placed(value, other, device) for value, other in pairs)
    return state


def _plain_numpy_state() -> list[Any]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return [name, np.asarray(keys).tolist(), *rest]


def _plain(value: Any) -> Any:
    """Tensors and arrays to lists, NaN and infinities to None: what strict JSON can hold."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
