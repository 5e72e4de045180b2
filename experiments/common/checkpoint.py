"""Saving and loading of checkpoints."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHECKPOINTS = ("checkpoint.pt", "checkpoint.old.pt")  # the newest first


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
    """The newest checkpoint that can be read, or None; a damaged one is reported."""
    log = folder / "metrics.jsonl"
    written = log.stat().st_size if log.exists() else 0
    found = [path for name in CHECKPOINTS if (path := folder / name).exists()]
    for path in found:
        try:
            saved = load(path)
            newer = saved["metrics_bytes"] > written
        except Exception as error:  # torch raises many kinds for a damaged file
            print(f"{path}: damaged, left aside ({type(error).__name__})", file=sys.stderr)
            continue
        if not newer:
            return saved
        print(f"{path}: newer than {log.name}, left aside", file=sys.stderr)
    if found:
        print(f"{folder}: no checkpoint is whole, starts anew", file=sys.stderr)
    return None


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
