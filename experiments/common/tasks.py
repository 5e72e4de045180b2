"""The module of a task, and the names in it that a task may leave out."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Collection
from dataclasses import fields
from functools import cache
from types import ModuleType

from pydantic.dataclasses import is_pydantic_dataclass

from experiments.common.messages import ConfigError, named, shown, unknown


def task_module(name: str) -> ModuleType:
    """The module ``experiments.<name>``, imported and checked when first asked for.

    Raises:
        ConfigError: there is no such module, it cannot be imported, or it is no task.
    """
    file = f"experiments/{name}.py"
    try:
        module = importlib.import_module(f"experiments.{name}")
    except Exception as error:  # whatever a module raises when it is imported
        if isinstance(error, ModuleNotFoundError) and error.name == f"experiments.{name}":
            raise ConfigError(f"task={name}: has no program {file}") from None
        frames = traceback.extract_tb(error.__traceback__)[1:]
        own = (f.lineno for f in frames if "importlib" not in f.filename)
        line = next(own, getattr(error, "lineno", None))  # a SyntaxError comes without a frame
        raise ConfigError(f"{file}, line {line}: {named(error)}") from error
    _check_module(module, file)
    return module


@cache
def _check_module(module: ModuleType, file: str) -> None:
    """Check the names that a task defines, once for each module."""
    from experiments.common.optimizers import HYPERPARAMETERS, OPTIMIZERS  # which imports this one
    from laprop.functional import ALGORITHMS

    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and is_pydantic_dataclass(config)):
        raise ConfigError(f"{file}: Config: must be a class with @settings above it")
    try:
        inspect.signature(module.train).bind("cfg", "run")
    except (AttributeError, TypeError):  # it is missing, no function, or takes other arguments
        raise ConfigError(f"{file}: train: must be a function train(cfg, run)") from None
    optimizer = [f"optimizer.{name}" for name in HYPERPARAMETERS]
    axes = ["seed", *optimizer, *(f"task.{field.name}" for field in fields(config))]
    optimizers = [*OPTIMIZERS, *(name for name in ALGORITHMS if name not in OPTIMIZERS)]
    for name, allowed in {"AXES": axes, "OPTIMIZERS": optimizers, "OPTIONS": None}.items():
        values = getattr(module, name, ())
        if isinstance(values, str) or not isinstance(values, Collection):
            raise ConfigError(
                f"{file}: {name}={shown(values)}: must be a tuple, such as ({shown(values)!r},)"
            )
        for value in values:
            if allowed is not None and value not in allowed:
                raise unknown(f"{file}: {name}", shown(value), str(value), allowed)


def axes_of(task: ModuleType) -> tuple[str, ...]:
    """The settings that may be lists in a run of a task, its ``AXES``; empty if it has none."""
    return tuple(getattr(task, "AXES", ()))
