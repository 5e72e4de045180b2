"""The module of a task, and the names in it that a task may leave out."""

from __future__ import annotations

import importlib
from types import ModuleType


def task_module(name: str) -> ModuleType:
    """The module ``experiments.<name>``, imported when first asked for."""
    return importlib.import_module(f"experiments.{name}")


def axes_of(task: ModuleType) -> tuple[str, ...]:
    """The settings that may be lists in a run of a task, its ``AXES``; empty if it has none."""
    return tuple(getattr(task, "AXES", ()))
