"""The module of a task, and the names in it that a task may leave out."""

from __future__ import annotations

import importlib
from types import ModuleType

from experiments.common.messages import ConfigError


def task_module(name: str) -> ModuleType:
    """The module ``experiments.<name>``, imported when first asked for.

    Raises:
        ConfigError: there is no such module.
    """
    try:
        return importlib.import_module(f"experiments.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"experiments.{name}":
            raise
        raise ConfigError(f"task={name}: has no program experiments/{name}.py") from None


def axes_of(task: ModuleType) -> tuple[str, ...]:
    """The settings that may be lists in a run of a task, its ``AXES``; empty if it has none."""
    return tuple(getattr(task, "AXES", ()))
