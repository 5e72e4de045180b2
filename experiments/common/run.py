"""A run: what all tasks share, whatever their training loop looks like.

A task's ``train(cfg, run)`` contains the training loop. It asks the run for the device, the seeded
generators, the optimizer and the steps still to do, and gives it the numbers to record. A run that
is killed at any moment can then resume from its last checkpoint, and ends with the same numbers as
an undisturbed run.

Folder of a run, ``<output>/<task>/<key>/``:

======================  ==========================================================================
``config.yaml``         the settings, resolved
``manifest.json``       status, wall time, peak memory, commit, versions, hardware
``metrics.jsonl``       one JSON object per ``run.log``; grows by appending
``summary.json``        the numbers of ``run.summary``; for a batch one list entry per member
``<name>.csv``          a table of ``run.table``
``best.pt``             the states that ``run.best`` kept; ``best.old.pt``, only while the run is
                        unfinished, those before them
``checkpoint.pt``       only while the run is unfinished; ``checkpoint.old.pt`` is the one before it
======================  ==========================================================================
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.common import provenance
from experiments.common.checkpoint import (
    Best,
    load,
    load_checkpoint,
    numpy_state,
    restore_into,
    restore_numpy_state,
    save,
    state_of,
)
from experiments.common.files import RERUN, atomic, read_log, reading, write_json
from experiments.common.grid import Grid
from experiments.common.optimizers import HYPERPARAMETERS, by_rule, rule, torch_optimizer
from experiments.common.progress import Progress
from experiments.common.schedules import Course, Follower, own_schedule, updates
from experiments.common.settings import Settings
from experiments.common.tasks import task_module
from experiments.common.tracking import tracker
from laprop.functional import Algorithm

NUMBER = int | float | None  # a number as JSON has it; NaN and infinities are None
CHECKPOINT_SHARE = 20  # the next checkpoint waits at least so many times as long as the last took


class Interrupted(SystemExit):
    """SIGINT or SIGTERM arrived: the exit status is 128 + its number, and the run can resume."""


@contextmanager
def signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """A context in which SIGINT and SIGTERM go to ``handler``, except one that is ignored.

    Outside the main thread it changes nothing, because only the main thread can set handlers.
    """
    both = (signal.SIGINT, signal.SIGTERM)
    heeded = [number for number in both if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        before = {number: signal.signal(number, handler) for number in heeded}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


class Run:
    """One run of one task. ``execution.execute`` makes it; tasks only use it.

    Args:
        settings: validated settings.

    Attributes:
        config: the settings.
        device: the device to train on.
        grid: the members of a vectorised task, see :class:`Grid`.
        folder: the run's own folder.
        algorithm: the optimizer's rule with the options of the settings; in vectorised tasks only.
    """

    algorithm: Algorithm

    def __init__(self, settings: Settings) -> None:
        self.config = settings
        self.folder = settings.folder
        self.device = provenance.device(settings.device)
        self.grid = Grid(settings, self.device)
        task = task_module(settings.task_name)
        optimizer = settings.optimizer
        own, total = own_schedule(task, settings.task), updates(task, settings.task)
        self._course = Course(settings.schedule, own, total)
        self._followers: list[Follower] = []
        self._followed = False
        self._options: dict[str, Any] = {}
        self._hyper: dict[str, Any] = {}
        if by_rule(optimizer.name, task):
            self.algorithm, self._options = rule(optimizer, "lr" in self._course.changing)
        self.diverged_at: int | None = None
        self._step = 0
        self._tracked: dict[str, Any] = {}
        self._generators: dict[str, torch.Generator] = {}
        self._summary: dict[str, Any] = {}
        self._best = Best(self.folder, self.device)
        self._steps_asked = False
        self._looping = False
        self._signal: int | None = None
        self._verified = False
        self._progress = Progress(self.folder)
        self._started = time.monotonic()
        self._save_after = self._started + settings.checkpoint_every
        provenance.reset_peak_memory(self.device)
        self._checkpoint = load_checkpoint(self.folder) or {}
        self._generator_states: dict[str, Tensor] = {}  # of saved generators not yet asked for
        self._wall_before = self._checkpoint.get("wall_time", 0.0)
        self._peak_before = self._checkpoint.get("peak_memory", 0)
        # Drop the records after the checkpoint, because the resumed run makes them again.
        self._metrics = (self.folder / "metrics.jsonl").open("ab")
        self._metrics.truncate(self._checkpoint.get("metrics_bytes", 0))
        self._metrics.seek(0, os.SEEK_END)
        self._logged = -math.inf  # the step of the last record
        for record in read_log(self.folder, ended=True):  # a damaged log is refused now
            self._logged = record["step"]
        self._tracker = tracker(settings, read_log(self.folder, ended=True))
        self._seed_globals()  # after the tracker, which may draw random numbers

    # Randomness and optimizer

    def _seed_globals(self) -> None:
        seed = _seed_of(self._seed_text(), "global")
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  some libraries draw from this generator
        torch.manual_seed(seed)

    def _seed_text(self) -> str:
        return str(self.config.decisive()["seed"])  # equal for settings of one key

    def generator(self, name: str, seed: int | None = None) -> torch.Generator:
        """The random generator of one purpose, independent of the generators of other purposes.

        Args:
            name: the purpose, for instance ``"batches"``; numbers depend on it and on the seed.
            seed: by default the run's seed; a vectorised task passes each member's seed.

        Returns:
            a generator on the CPU, so that its numbers are the same on every machine. Its state is
            part of the checkpoint. Equal arguments give the same generator.
        """
        text = self._seed_text() if seed is None else str(seed)
        key = f"{name}/{text}"
        if key not in self._generators:
            generator = torch.Generator().manual_seed(_seed_of(text, name))
            if key in self._generator_states:
                generator.set_state(self._generator_states.pop(key))
            self._generators[key] = generator
        return self._generators[key]

    def optimizer(
        self, params: Any, *, fused: bool | None = None, **changes: Any
    ) -> torch.optim.Optimizer:
        """The optimizer of the settings, as a torch optimizer that follows their schedule.

        Args:
            params: parameters or groups, as for any torch optimizer.
            fused: the argument of this name of torch's own classes, whose default is not fused.
                LaProp ignores it and chooses by itself: its kernel on a CPU, lists of tensors on a
                GPU.
            changes: hyper-parameters to change, by their names in the settings: ``lr=...``.
        """
        settings = replace(self.config.optimizer, **changes)
        optimizer = torch_optimizer(settings, params, fused=fused)
        if self._course.changing:
            self._followers.append(Follower(optimizer, settings, self._course))
            self._followed = True
        return optimizer

    def hyper(self, update: int) -> dict[str, Any]:
        """The hyper-parameters of an update for ``run.algorithm.step``, after the schedule.

        Args:
            update: number of the update, counted from 0.

        Returns:
            those of lr, mu, nu and epsilon that the optimizer has; weight_decay, the share by which
            the weights shrink; options of the rule. In a vectorised task axes have the shape (B,).
        """
        self._followed = True
        if self._course.changing or not self._hyper:
            optimizer, axes = self.config.optimizer, self.grid.frame
            start = {name: getattr(optimizer, name) for name in HYPERPARAMETERS}
            for name in [name for name, value in start.items() if value is None]:
                del start[name]  # the rule does not use it
            start |= {k: self.grid[f"optimizer.{k}"] for k in start if f"optimizer.{k}" in axes}
            values = self._course.at(update, start)
            factor = values["lr"] if optimizer.decay_by_lr else self._course.factor(update)
            decay = {"weight_decay": optimizer.weight_decay * factor}
            self._hyper = values | decay | self._options
        return self._hyper

    # Steps, checkpoints

    def track(self, **things: Any) -> None:
        """Name what checkpoints save and a resumed run gets back; call this before :meth:`steps`.

        Args:
            things: objects with ``state_dict`` and ``load_state_dict``; tensors, which are
                overwritten in place; torch generators; or dictionaries (of dictionaries, lists,
                tuples) of tensors, numbers and strings, whose content is replaced.

        Raises:
            TypeError: a thing is none of these.
        """
        for name, thing in things.items():
            if not (
                hasattr(thing, "load_state_dict")
                or isinstance(thing, Tensor | torch.Generator | MutableMapping)
            ):
                raise TypeError(f"run.track({name}=...) cannot restore a {type(thing).__name__}")
        self._tracked |= things

    def steps(self, total: int) -> Iterator[int]:
        """Yield the steps still to do, out of ``range(total)``; stop early if the run diverges.

        Between two steps a checkpoint is written every ``checkpoint_every`` seconds, but less often
        if writing would take more than a twentieth of the time. With 0 it is written after every
        step, however long that takes. When SIGINT or SIGTERM arrives, a checkpoint is written after
        the step and the process ends.

        Raises:
            RuntimeError: it is called a second time, or :meth:`log` was called before it.
        """
        if self._steps_asked:
            raise RuntimeError(
                "run.steps: can be called once in a run; give it the total number of steps, and "
                "branch on the step's number inside the loop"
            )
        if self._metrics.tell() > self._checkpoint.get("metrics_bytes", 0):
            raise RuntimeError(
                "run.log before run.steps: would repeat the record each time the run resumes; log "
                "in the loop or after it, or use run.summary"
            )
        self._steps_asked = True
        self._restore()
        self._progress.update(self._step, total)
        self._looping = True
        try:
            while self._step < total and self.diverged_at is None:
                yield self._step
                self._step += 1
                self._progress.update(self._step, total)
                if self._signal is not None:
                    self.checkpoint()
                    raise Interrupted(128 + self._signal)
                if time.monotonic() >= self._save_after:
                    self.checkpoint()
        finally:
            self._looping = False

    def checkpoint(self) -> None:
        """Write the checkpoint now. The one before it is kept until the next."""
        begun = time.monotonic()
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        state = {
            "step": self._step,
            "diverged_at": self.diverged_at,
            "summary": self._summary,
            "best": self._best.named,
            "metrics_bytes": self._metrics.tell(),
            "wall_time": self.wall_time,
            "peak_memory": self.peak_memory,
            "updates": [follower.update for follower in self._followers],
            "tracked": {name: state_of(thing) for name, thing in self._tracked.items()},
            "generators": self._generator_states
            | {name: g.get_state() for name, g in self._generators.items()},
            "torch": torch.get_rng_state(),
            "cuda": [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [],
            "numpy": numpy_state(np.random),
            "python": random.getstate(),
        }
        current = self.folder / "checkpoint.pt"
        with atomic(current) as path:
            save(state, path)
            if not self._verified:  # fail now, not after a crash, if the state cannot be loaded
                load(path, mmap=True)
                self._verified = True
            if current.exists():
                current.replace(self.folder / "checkpoint.old.pt")
        self._best.checkpointed()
        now = time.monotonic()
        every = self.config.checkpoint_every
        self._save_after = now + (max(every, CHECKPOINT_SHARE * (now - begun)) if every else 0.0)

    def _restore(self) -> None:
        saved, self._checkpoint = self._checkpoint, {}
        if saved:  # the program may have changed since, and with it what the checkpoint must hold
            with reading(saved["path"], RERUN):
                self._restore_from(saved)

    def _restore_from(self, saved: dict[str, Any]) -> None:
        self._step, self.diverged_at = int(saved["step"]), saved["diverged_at"]
        self._summary = saved["summary"]
        self._best.restore(saved["best"])
        for name, thing in self._tracked.items():
            restore_into(thing, saved["tracked"][name], self.device)
        for follower, update in zip(self._followers, saved["updates"], strict=True):
            follower.update = update
            follower.apply()
        self._generator_states = saved["generators"]
        for name, generator in self._generators.items():
            generator.set_state(self._generator_states.pop(name))
        torch.set_rng_state(saved["torch"])
        if saved["cuda"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda"][0], self.device)
        restore_numpy_state(np.random, saved["numpy"])
        random.setstate(saved["python"])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Stop after this step. Outside the loop, and at a second signal, stop at once."""
        if not self._looping or self._signal is not None:
            raise Interrupted(128 + number)
        self._signal = number
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # else the parent prints it
            with suppress(OSError):  # os.write, because the signal may have interrupted a print
                os.write(2, b"stops after this step and a checkpoint; a second signal stops now\n")

    # Numbers

    def log(self, step: int, **metrics: Any) -> None:
        """Append one record to ``metrics.jsonl``.

        Args:
            step: the record's position, in the task's own unit (updates, epochs, frames); greater
                than that of the record before.
            metrics: each a number, or in a vectorised run B numbers. NaN and infinities become
                ``null``, where a curve ends; call :meth:`diverged` to record the reason.

        Raises:
            TypeError: a value is no number.
            ValueError: there are not B numbers, or the step is not greater than the last one.
        """
        takes = "numbers; run.summary also takes text"
        record = self._plain("log", {"step": step} | metrics, NUMBER, takes)
        # On resuming, the steps in the log count only when run.steps has restored the run.
        if record["step"] <= self._logged and not self._checkpoint:
            raise ValueError(
                f"run.log(step={record['step']}): must be greater than the last logged step, "
                f"{self._logged}"
            )
        self._logged = record["step"]
        self._metrics.write((json.dumps(record, allow_nan=False) + "\n").encode())
        self._metrics.flush()
        self._tracker.log(record)

    def summary(self, **values: Any) -> None:
        """Set final values, which become columns of ``runs.csv``; later calls override earlier.

        Args:
            values: each a number or a string, or in a vectorised run B of them.

        Raises:
            TypeError: a value is neither.
            ValueError: there are not B values.
        """
        self._summary |= self._plain("summary", values, NUMBER | str, "numbers and text")

    def _plain(self, call: str, values: dict[str, Any], kind: Any, takes: str) -> dict[str, Any]:
        plain = {name: _for_json(value) for name, value in values.items()}
        for name, value in plain.items():
            several = value if isinstance(value, list) else [value]
            if not all(isinstance(one, kind) for one in several):
                raise TypeError(f"run.{call}({name}={value!r:.80}): takes {takes}")
            if isinstance(value, list) and len(value) != len(self.grid):
                raise ValueError(f"{name}: {len(value)} numbers for {len(self.grid)} members")
        return plain

    def best(self, name: str, value: float | Tensor, step: int, **things: Any) -> bool:
        """Write the states of things to ``best.pt`` if a validation loss is the lowest so far.

        The summary then has ``best_<name>`` and ``best_at``. NaN is never the lowest loss.

        Args:
            name: name of the loss, for instance ``"valid_loss"``.
            value: the loss; for an accuracy, pass its negative.
            step: when it was measured, in the unit of :meth:`log`.
            things: the things to keep, as for :meth:`track`.

        Returns:
            whether the loss is the lowest so far. A task may end early after many that are not.
        """
        lowest = self._best.keep(float(value), step, things)
        if lowest:
            self.summary(**{f"best_{name}": float(value), "best_at": step})
        return lowest

    def load_best(self, **things: Any) -> bool:
        """Restore the states that :meth:`best` kept; return False if there are none.

        Raises:
            Damaged: the file of these states is missing, or holds those of another step.
        """
        return self._best.load(things)

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Keep a small extra table as ``<name>.csv``; collected beside ``runs.csv``.

        Collecting joins the tables of all runs and adds the column ``run_key``.
        :meth:`Results.table` leaves out this column and rows that are the same. A frame therefore
        needs columns of its own for the settings by which its rows are to be told apart.

        Raises:
            ValueError: the name is that of a collected table.
        """
        if name in ("runs", "curves"):
            raise ValueError(
                f"run.table({name!r}): is the name of a collected table; choose another"
            )
        with atomic(self.folder / f"{name}.csv") as path:
            frame.to_csv(path, index=False)

    def diverged(self, loss: float | Tensor, step: int, limit: float = math.inf) -> bool:
        """Whether ``loss`` is NaN, infinite or above ``limit``; if so the run ends as diverged.

        Divergence is a result: the status is ``diverged``, and the step is in the manifest and in
        ``runs.csv``. Vectorised tasks do not use this, since a member that diverges must not end
        the others.
        """
        value = float(loss.detach() if isinstance(loss, Tensor) else loss)
        if math.isfinite(value) and value <= limit:
            return False
        self.diverged_at = step
        return True

    # The end

    @property
    def wall_time(self) -> float:
        """Seconds of this process, including pauses, and of the earlier ones that it resumes."""
        return float(self._wall_before + time.monotonic() - self._started)

    @property
    def peak_memory(self) -> int:
        """Peak memory in bytes, over all resumes: of the GPU if one is used, else of a process."""
        return max(int(self._peak_before), provenance.peak_memory(self.device))

    def finish(self) -> str:
        """Write the summary and return the status, ``finished`` or ``diverged``.

        Raises:
            RuntimeError: a schedule was set, but the task did not use it.
        """
        if self._course.changing and not self._followed:
            raise RuntimeError(
                f"schedule: {self.config.task_name} did not use it; take the optimizer from "
                "run.optimizer, or the values of each update from run.hyper"
            )
        os.fsync(self._metrics.fileno())  # a full network disk may raise its error only now
        write_json(self.folder / "summary.json", self._summary)
        return "finished" if self.diverged_at is None else "diverged"

    def close(self, completed: bool) -> None:
        """Close the log and the tracker, however the run ended."""
        with suppress(OSError):  # the error of a full disk has been reported already
            self._metrics.close()
        self._tracker.finish(self._summary, completed)


def _seed_of(seed: str, name: str) -> int:
    """A 63-bit seed from a hash of both, so that neighbouring seeds share no random numbers."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _for_json(value: Any) -> Any:
    """A value for strict JSON: tensors and arrays as lists, NaN and infinities as None."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_for_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
