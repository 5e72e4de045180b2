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

import hashlib
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
from contextlib import contextmanager
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

FINAL = ("finished", "diverged")  # statuses of a run that need not be run again


class Interrupted(SystemExit):
    """SIGINT or SIGTERM arrived; the checkpoint is written, the run resumes next time."""


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

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, axis: str) -> Any:
        values = self.frame[axis].to_numpy()
        if values.dtype.kind not in "fi":
            return values
        return torch.from_numpy(values.copy()).to(self._device)

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
        self._signal: int | None = None
        self._saved_at = time.monotonic()
        self._wall_before = 0.0
        self._started = time.monotonic()
        self._checkpoint = _load_checkpoint(self.folder)
        if self._checkpoint is not None:
            self._wall_before = self._checkpoint["wall_time"]
        self._metrics = _open_log(
            self.folder / "metrics.jsonl",
            self._checkpoint["metrics_bytes"] if self._checkpoint else 0,
        )
        self._tracker = Tracker(settings)
        self._seed_globals()

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
            a generator whose state is part of the checkpoint.
        """
        text = self._seed_text() if seed is None else str(seed)
        generator = torch.Generator(device).manual_seed(_seed_of(text, name))
        self._generators[f"{name}/{text}"] = generator
        return generator

    def optimizer(self, params: Any, **changes: Any) -> torch.optim.Optimizer:
        """The optimizer of the settings, as a torch optimizer.

        Args:
            params: parameters or groups, as for any torch optimizer.
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
                params, **shared, weight_decay=decay, amsgrad=h["name"] == "amsgrad"
            )
        return laprop.LaProp(
            params,
            **shared,
            weight_decay=decay,
            decay_by_lr=decay_by_lr,
            amsgrad=h["name"] == "amsprop",
            centered=h["name"] == "centered_laprop",
        )

    # Steps, checkpoints

    def track(self, **things: Any) -> None:
        """Name what a checkpoint saves and a resumed run gets back, before :meth:`steps`.

        Args:
            things: objects with ``state_dict`` and ``load_state_dict``; tensors, which are
                overwritten in place; or dictionaries of tensors, numbers and strings, whose
                content is replaced.
        """
        self._tracked |= things

    def steps(self, total: int) -> Iterator[int]:
        """The steps still to do, out of ``range(total)``; ends early once diverged.

        Between two steps the run is checkpointed every ``checkpoint_every`` seconds, and when
        SIGINT or SIGTERM arrives, after which the process ends.
        """
        self._restore()
        label = f"{self.config.task_name} {self.config.optimizer.name} {self.config.key[:6]}"
        with (
            tqdm(total=total, initial=self._step, desc=label, disable=None, leave=False) as bar,
            self._signals(),
        ):
            while self._step < total and self.diverged_at is None:
                yield self._step
                self._step += 1
                bar.update()
                if self._signal is not None:
                    self.checkpoint()
                    raise Interrupted(128 + self._signal)
                if time.monotonic() - self._saved_at >= self.config.checkpoint_every:
                    self.checkpoint()

    def checkpoint(self) -> None:
        """Write the checkpoint now. The one before it is kept until the next."""
        self._metrics.flush()
        state = {
            "step": self._step,
            "diverged_at": self.diverged_at,
            "summary": self._summary,
            "metrics_bytes": self._metrics.tell(),
            "wall_time": self._wall_time(),
            "tracked": {name: _state_of(thing) for name, thing in self._tracked.items()},
            "generators": {name: g.get_state() for name, g in self._generators.items()},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            "numpy": _plain_numpy_state(),
            "python": random.getstate(),
        }
        current = self.folder / "checkpoint.pt"
        with _atomic(current) as path:
            torch.save(state, path)
            if current.exists():
                current.replace(self.folder / "checkpoint.old.pt")
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        saved, self._checkpoint = self._checkpoint, None
        if saved is None:
            return
        self._step, self.diverged_at = saved["step"], saved["diverged_at"]
        self._summary = saved["summary"]
        for name, thing in self._tracked.items():
            _restore_into(thing, saved["tracked"][name])
        for name, generator in self._generators.items():
            generator.set_state(saved["generators"][name])
        torch.set_rng_state(saved["torch"])
        if saved["cuda"]:
            torch.cuda.set_rng_state_all(saved["cuda"])
        name, keys, *rest = saved["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
        random.setstate(saved["python"])

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into a request that the next step boundary answers."""

        def request(number: int, frame: FrameType | None) -> None:
            if self._signal is not None:  # asked twice: do not wait for the step
                raise KeyboardInterrupt
            self._signal = number

        try:
            before = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever owns it handles signals
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # Numbers

    def log(self, step: int, **metrics: Any) -> None:
        """Append one record to ``metrics.jsonl``.

        Args:
            step: the record's position, in the task's own unit (updates, epochs, frames).
            metrics: each a number, or in a vectorised run B numbers; NaN and infinities become
                ``null``: a curve ends there, and :meth:`diverged` says why.
        """
        record = {"step": step} | {name: _plain(value) for name, value in metrics.items()}
        self._metrics.write((json.dumps(record, allow_nan=False) + "\n").encode())
        self._metrics.flush()
        self._tracker.log(record)

    def summary(self, **values: Any) -> None:
        """Set final numbers, which become this run's columns in ``runs.csv``; later calls win.

        Args:
            values: each a number or a string, or in a vectorised run B of them.
        """
        self._summary |= {name: _plain(value) for name, value in values.items()}

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Keep a small extra table as ``<name>.csv``; collected beside ``runs.csv``."""
        with _atomic(self.folder / f"{name}.csv") as path:
            frame.to_csv(path, index=False)

    def diverged(self, loss: float | Tensor, step: int, limit: float = math.inf) -> bool:
        """Whether ``loss`` is NaN, infinite or above ``limit``; if so the run ends as diverged.

        Divergence is a result: status ``diverged``, with the step in the manifest and in
        ``runs.csv``. Vectorised tasks keep their members' own account instead.
        """
        value = float(loss)
        if math.isfinite(value) and value <= limit:
            return False
        self.diverged_at = step
        return True

    # The end

    def _wall_time(self) -> float:
        return self._wall_before + time.monotonic() - self._started

    def finish(self) -> str:
        """Write the summary; returns the status, ``finished`` or ``diverged``."""
        write_json(self.folder / "summary.json", self._summary)
        self._metrics.close()
        self._tracker.finish(self._summary)
        return "finished" if self.diverged_at is None else "diverged"


def execute(settings: Settings) -> str:
    """Run one setting unless it is finished, or another process is at it.

    Returns:
        ``finished`` or ``diverged`` (also where an earlier run was), or ``busy``.

    Raises:
        ConfigError: for settings that the task refuses.
        Exception: whatever the task raised; the traceback is in the manifest, status ``failed``.
    """
    done = status(settings)
    if done in FINAL:
        return done
    folder = settings.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        return "busy"
    except OSError as error:
        raise ConfigError(f"output={settings.output}: {error.strerror}: {error.filename}") from None
    with lock:
        done = status(settings)  # another process may have finished it meanwhile
        if done in FINAL:
            return done
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        run = None
        manifest = {
            "key": settings.key,
            "task": settings.task_name,
            "figure": settings.figure,
            "scale": settings.scale,
            "status": "running",
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            **environment(settings.device),
        }
        try:
            write_json(folder / "manifest.json", manifest)
            with _atomic(folder / "config.yaml") as path:
                path.write_text(yaml.safe_dump(_plain_settings(settings), sort_keys=False))
            run = Run(settings)
            task_module(settings.task_name).train(settings.task, run)
            manifest["status"] = run.finish()
        except (Interrupted, KeyboardInterrupt):
            manifest["status"] = "interrupted"
            raise
        except BaseException:
            manifest |= {"status": "failed", "error": traceback.format_exc()}
            raise
        finally:
            if run is not None:
                manifest |= {
                    "diverged_at": run.diverged_at,
                    "wall_time_s": round(run._wall_time(), 3),
                    "peak_memory_bytes": _peak_memory(run.device),
                }
            write_json(folder / "manifest.json", manifest)
        for name in ("checkpoint.pt", "checkpoint.old.pt"):
            (folder / name).unlink(missing_ok=True)
    return str(manifest["status"])


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
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
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


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device={name}: allowed are auto, cpu, cuda, cuda:<index>") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name}: no GPU here; allowed are auto, cpu")
    return device


def _seed_of(seed: str, name: str) -> int:
    """64 bits that depend on both, so that neighbouring seeds share no stream."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# Files --------------------------------------------------------------------------------------------


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
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


def _open_log(path: Path, size: int) -> Any:
    """Open for appending after ``size`` bytes: records younger than the checkpoint come again."""
    file = path.open("ab")
    file.truncate(size)
    file.seek(size)
    return file


def _load_checkpoint(folder: Path) -> dict[str, Any] | None:
    for name in ("checkpoint.pt", "checkpoint.old.pt"):
        path = folder / name
        if not path.exists():
            continue
        try:
            return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
        except Exception as error:  # torch raises many kinds for a damaged file
            print(f"{path}: damaged, ignored ({type(error).__name__})", file=sys.stderr)
    return None


def _state_of(thing: Any) -> Any:
    return thing.state_dict() if hasattr(thing, "state_dict") else thing


def _restore_into(thing: Any, state: Any) -> None:
    if hasattr(thing, "load_state_dict"):
        thing.load_state_dict(state)
    elif isinstance(thing, Tensor):
        with torch.no_grad():
            thing.copy_(state)
    elif isinstance(thing, MutableMapping):
        thing.clear()
        thing.update(state)
    else:
        raise TypeError(f"run.track cannot restore a {type(thing).__name__}")


def _plain_numpy_state() -> list[Any]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return [name, np.asarray(keys).tolist(), *rest]


def _plain(value: Any) -> Any:
    """Tensors and arrays to lists, NaN and infinities to None: what strict JSON can hold."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _plain_settings(settings: Settings) -> dict[str, Any]:
    plain: dict[str, Callable[..., Any] | Any] = asdict(settings)
    return plain | {"output": str(settings.output), "task": asdict(settings.task)}
