"""The settings that ``python -m experiments`` takes, and the key that a run gets from them.

``experiments.common.config`` makes them from YAML files and the command line.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval
from pydantic import AfterValidator

from experiments.common.messages import ConfigError
from experiments.common.optimizers import Optimizer
from experiments.common.schedules import Schedule
from experiments.common.schema import Axis, Nonnegative, settings
from experiments.common.tasks import axes_of, task_module
from experiments.common.versions import versions

SCALES = ("paper", "short", "small", "smoke")  # the largest first


@settings
class Tracking:
    """The tracker to which metrics go besides the run's own folder (``configs/tracking``)."""

    name: Literal["none", "tensorboard", "wandb"] = "none"
    project: str = "laprop"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"  # auto: online where an API key is known


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError("must be auto, cpu, cuda or cuda:<index>")
    return name


def _expanded(path: Path) -> Path:
    """A path in which ``~`` is the home folder: a shell leaves it as it is in ``output=~/x``."""
    expanded = Path(os.path.expanduser(path))
    if str(expanded).startswith("~"):
        raise ValueError(f"there is no user {expanded.parts[0][1:]}; give the folder's whole path")
    return expanded


@settings
class Settings:
    """All settings that ``python -m experiments`` takes; ``task`` is the task's own ``Config``."""

    task_name: str
    task: Any
    optimizer: Optimizer
    seed: Axis[Annotated[int, Interval(ge=0, lt=2**63)]]
    scale: Literal[SCALES]  # type: ignore[valid-type]
    figure: str | None
    device: Annotated[str, AfterValidator(_device)]
    threads: Annotated[int, Ge(1)] | None
    output: Annotated[Path, AfterValidator(_expanded)]
    checkpoint_every: Nonnegative  # seconds
    tracking: Tracking
    schedule: Schedule = Schedule()

    def decisive(self) -> dict[str, Any]:
        """All settings that decide the result, as plain nested data.

        Fields at the default of their dataclass are left out, so that a new field with a default
        keeps the keys of old runs. A batch axis that is a list of one value counts as that value.
        """
        plain = {
            "task": {"name": self.task_name, **_plain(self.task)},
            "optimizer": _plain(self.optimizer),
            "seed": _plain(self.seed),
        }
        if schedule := _plain(self.schedule):
            plain["schedule"] = schedule
        for axis in axes_of(task_module(self.task_name)):
            *group, name = axis.split(".")
            place = plain[group[0]] if group else plain
            if isinstance(value := place.get(name), list) and len(value) == 1:
                place[name] = value[0]
        return plain

    @cached_property
    def key(self) -> str:
        """Sixteen hex digits that name this run; equal settings and versions give equal keys."""
        identity = {"settings": self.decisive(), "versions": versions(self.task_name)}
        text = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """``<output>/<task>/<key>``."""
        return self.output / self.task_name / self.key

    def axes(self) -> dict[str, list[Any]]:
        """The batch axes in the order of the task's ``AXES``, each as a list of values."""
        values = {}
        for name in axes_of(task_module(self.task_name)):
            value = lookup(self, name)
            values[name] = list(value) if isinstance(value, list | tuple) else [value]
        return values

    def members(self) -> Iterator[tuple[Any, ...]]:
        """The product of ``axes()``: one tuple per member; the last axis changes fastest."""
        return itertools.product(*self.axes().values())


def lookup(settings: Any, dotted: str) -> Any:
    """``lookup(s, "optimizer.nu")`` is ``s.optimizer.nu``."""
    for name in dotted.split("."):
        settings = getattr(settings, name)
    return settings


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries without the fields at their defaults; -0.0 as 0.0."""
    if is_dataclass(value):
        plain = {}
        for field in fields(value):
            given = getattr(value, field.name)
            if given != field.default:
                plain[field.name] = _plain(given)
        return plain
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value + 0.0 if isinstance(value, float) else value


def plain_settings(settings: Settings) -> dict[str, Any]:
    """Settings as plain data for JSON and YAML; :func:`restored` is the inverse."""
    return dict(json.loads(json.dumps(asdict(settings), default=str)))  # paths as text


def restored(plain: dict[str, Any]) -> Settings:
    """The settings from the plain data of :func:`plain_settings`."""
    config = task_module(plain["task_name"]).Config
    parts = {"task": config, "optimizer": Optimizer, "tracking": Tracking}
    return Settings(**plain | {name: part(**plain[name]) for name, part in parts.items()})


def updates_in_units_of_lr(settings: Settings) -> None:
    """Refuse another learning rate than 1, as the ``check`` of a task that measures updates."""
    if settings.optimizer.lr != 1:
        raise ConfigError(
            f"optimizer.lr={settings.optimizer.lr}: must be 1.0; {settings.task_name} measures "
            "updates in units of the learning rate"
        )
