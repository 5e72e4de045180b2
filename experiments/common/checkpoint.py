"""Saving and loading of checkpoints."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.common.files import RERUN, atomic, reading

CHECKPOINTS = ("checkpoint.pt", "checkpoint.old.pt")  # the newest first
BEST = ("best.pt", "best.old.pt")  # the states of Run.best, the newest first


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch's error hides it
                raise error.__context__ from None
            raise


def load(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint to the CPU; no code in it is executed."""
    return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=mmap))


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, and its ``path``; None if there is none.

    A damaged checkpoint is reported.
    """
    log = folder / "metrics.jsonl"
    written = log.stat().st_size if log.exists() else 0
    found = [path for name in CHECKPOINTS if (path := folder / name).exists()]
    for path in found:
        try:
            saved = load(path)
            newer = saved["metrics_bytes"] > written
        except Exception as error:  # torch raises many kinds for a damaged file
            print(f"{path}: damaged, not used ({type(error).__name__})", file=sys.stderr)
            continue
        if not newer:
            return saved | {"path": path}
        print(f"{path}: newer than {log.name}, not used", file=sys.stderr)
    if found:
        print(f"{folder}: no checkpoint is usable; starts from the beginning", file=sys.stderr)
    return None


class Best:
    """The states of the lowest validation loss so far, in ``best.pt`` of a run's folder.

    A run that is killed resumes from a checkpoint that may be older than ``best.pt``. The states
    that this checkpoint names are therefore kept as ``best.old.pt`` until there is a newer one.

    Attributes:
        named: the value and the step of these states; empty if there are none.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.named: dict[str, Any] = {}
        self._newest, self._before = (folder / name for name in BEST)
        self._device = device
        self._in_checkpoint = False  # whether the newest checkpoint names what best.pt holds

    def keep(self, value: float, step: int, things: Mapping[str, Any]) -> bool:
        """Write the states of things, if the value is the lowest so far; return whether it is."""
        if not value < self.named.get("value", math.inf):
            return False
        self.named = {"value": value, "step": step}
        with atomic(self._newest) as path:
            save({name: state_of(thing) for name, thing in things.items()} | {"step": step}, path)
            if self._in_checkpoint and self._newest.exists():
                self._newest.replace(self._before)
        self._in_checkpoint = False
        return True

    def load(self, things: Mapping[str, Any]) -> bool:
        """Restore the states of things; return False if none were kept.

        Raises:
            Damaged: the file is missing, or holds the states of another step.
        """
        if not self.named:
            return False
        with reading(self._newest, RERUN):
            saved = load(self._newest)
            if saved["step"] != self.named["step"]:
                raise ValueError(f"it is of step {saved['step']}, not {self.named['step']}")
            for name, thing in things.items():
                restore_into(thing, saved[name], self._device)
        return True

    def checkpointed(self) -> None:
        """Note that the newest checkpoint names the states in ``best.pt``."""
        self._in_checkpoint = True

    def restore(self, named: dict[str, Any]) -> None:
        """Return to the states that a checkpoint names."""
        self.named, self._in_checkpoint = named, True
        if named and self._before.exists():
            with reading(self._before, RERUN):
                if load(self._before, mmap=True)["step"] == named["step"]:
                    self._before.replace(self._newest)


def state_of(thing: Any) -> Any:
    """The state of a tracked thing that a checkpoint saves, see ``Run.track``."""
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    return thing.state_dict() if hasattr(thing, "state_dict") else thing


def restore_into(thing: Any, state: Any, device: torch.device) -> None:
    """Give a tracked thing the state that :func:`state_of` returned, in place."""
    if hasattr(thing, "load_state_dict"):
        thing.load_state_dict(state)
    elif isinstance(thing, torch.Generator):
        thing.set_state(state)
    elif isinstance(thing, Tensor):
        if state.shape != thing.shape:  # copy_ would repeat the smaller one
            raise ValueError(f"shape {tuple(state.shape)} for {tuple(thing.shape)}")
        with torch.no_grad():
            thing.copy_(state)
    else:
        placed = _placed(state, dict(thing), device)
        thing.clear()
        thing.update(placed)


def _placed(state: Any, like: Any, device: torch.device) -> Any:
    """``state`` with each tensor on the device of its counterpart in ``like``.

    A tensor without a counterpart goes to ``device``.
    """
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


def numpy_state(generator: Any) -> list[Any]:
    """The state of a generator as plain lists, which a checkpoint can hold.

    Args:
        generator: a ``numpy.random.RandomState``, or ``numpy.random`` itself for the global one.
    """
    name, keys, *rest = generator.get_state()
    return [name, np.asarray(keys).tolist(), *rest]


def restore_numpy_state(generator: Any, state: list[Any]) -> None:
    """Give a generator the state that :func:`numpy_state` returned."""
    name, keys, *rest = state
    generator.set_state((name, np.array(keys, dtype=np.uint32), *rest))
