"""From Hydra's composed YAML to validated settings: scales, axes, and one-line errors.

Order of precedence, weakest first: the optimizer's file, the task's file, the task's block for the
chosen optimizer (``optimizers.<name>``), the task's block for the chosen scale
(``scales.<scale>``), the command line (a figure's grid counts as command line).
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field

from experiments.common.messages import ConfigError, checked, near, one_line, shown, unknown
from experiments.common.optimizers import (
    HYPERPARAMETERS,
    OPTIMIZERS,
    Optimizer,
    hyperparameters,
    require_usable,
)
from experiments.common.schema import CONFIGS, Axis, Nonnegative, Unit, settings
from experiments.common.versions import versions

__all__ = ["OPTIMIZERS", "Axis", "Nonnegative", "Optimizer", "Unit", "settings"]  # for tasks, tests

GROUPS = ("task", "optimizer", "figure", "tracking")  # folders of CONFIGS

OmegaConf.register_new_resolver(
    "range", lambda start, stop, step=1: list(range(start, stop, step)), replace=True
)
OmegaConf.register_new_resolver(
    "linspace",
    lambda first, last, n: [first + (last - first) * i / max(n - 1, 1) for i in range(n)],
    replace=True,
)

SCALES = ("paper", "short", "small", "smoke")  # from the largest


@settings
class Tracking:
    """Where metrics go besides the run's own folder (``configs/tracking``)."""

    name: Literal["none", "wandb"] = "none"
    project: str = "laprop"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"  # auto: online where an API key is known


@settings
class Settings:
    """Everything that ``python -m experiments`` takes. ``task`` is the task's own ``Config``."""

    task_name: str
    task: Any
    optimizer: Optimizer
    seed: Axis[Annotated[int, Interval(ge=0, lt=2**63)]]
    scale: Literal[SCALES]  # type: ignore[valid-type]
    figure: str | None
    device: Annotated[
        str,
        Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:<index>"),
    ]
    threads: Annotated[int, Ge(1)] | None
    output: Path
    checkpoint_every: Nonnegative  # seconds
    tracking: Tracking

    def decisive(self) -> dict[str, Any]:
        """All settings that decide the result, as plain nested data.

        Fields that stand at a default which their dataclass declares are left out, so that a new
        field with a default keeps the keys of old runs. An axis of one value is that value.
        """
        plain = {
            "task": {"name": self.task_name, **_plain(self.task)},
            "optimizer": _plain(self.optimizer),
            "seed": _plain(self.seed),
        }
        for axis in getattr(task_module(self.task_name), "AXES", ()):
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
        for name in getattr(task_module(self.task_name), "AXES", ()):
            value = lookup(self, name)
            values[name] = list(value) if isinstance(value, list | tuple) else [value]
        return values

    def members(self) -> Iterator[tuple[Any, ...]]:
        """The product of ``axes()``: one tuple per member of the batch, last axis fastest."""
        return itertools.product(*self.axes().values())


def lookup(settings: Any, dotted: str) -> Any:
    """``lookup(s, "optimizer.nu")`` is ``s.optimizer.nu``."""
    for name in dotted.split("."):
        settings = getattr(settings, name)
    return settings


def tasks() -> list[str]:
    """Names of all tasks: there is no registry, ``configs/task`` is the list."""
    return _options("task")


def _options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


def task_module(name: str) -> ModuleType:
    """The module ``experiments.<name>``, imported when first asked for."""
    return importlib.import_module(f"experiments.{name}")


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


# Composition ------------------------------------------------------------------------------------


def compose_settings(overrides: Sequence[str]) -> Settings:
    """Compose the YAML files with ``overrides`` (Hydra's grammar) and validate the result.

    Raises:
        ConfigError: with one line that names the key, the value and what is allowed.
    """
    for override in map(_parsed, overrides):
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: several values are a sweep: add -m")
    return validate(composed(*(o for o in overrides if not _is_value(o))), overrides)


def command_lines(overrides: Sequence[str]) -> list[list[str]]:
    """The command line with its figure's grid at its scale written out; explicit settings win.

    Returns:
        one command line; where the figure's grid is a list of grids, one for each.

    Raises:
        ConfigError: where the figure has no grid at that scale.
    """
    given = {_parsed(text).key_or_group: text for text in overrides}
    if "figure" not in given:
        return [list(overrides)]
    for key in {"figure", "scale"} & given.keys():
        if _parsed(given[key]).is_sweep_override():
            raise ConfigError(f"{given[key]}: one {key} at a time has a grid")
    base = composed(*(given[key] for key in ("figure", "scale") if key in given))
    if not base.get("figure"):
        return [list(overrides)]
    if base.scale not in base.grids:
        allowed = ", ".join(map(str, base.grids))
        raise ConfigError(f"scale={base.scale}: {given['figure']} has {allowed}")
    grids = OmegaConf.to_container(base.grids[base.scale])
    lines = []
    for grid in grids if isinstance(grids, list) else [grids]:
        assert isinstance(grid, dict)
        written = {str(key): f"{key}={value}" for key, value in grid.items()}
        lines.append(list((written | given).values()))
    return lines


def expand(overrides: Sequence[str]) -> list[Settings]:
    """Every run that a command line stands for: its sweeps and its figure's grid, validated.

    A run that the command line names twice is there once.

    Raises:
        ConfigError: for the first bad setting, before anything has run.
    """
    every: dict[str, Settings] = {}
    for line in command_lines(overrides):
        for choice in itertools.product(*map(choices, line)):
            settings = compose_settings(choice)
            every.setdefault(settings.key, settings)
    return list(every.values())


def for_hydra(overrides: Sequence[str]) -> list[str]:
    """The same overrides for Hydra itself, which by default refuses keys that no YAML file names.

    Which keys there are is the dataclasses' to say, and they may have defaults of their own.
    """
    return [f"++{o.lstrip('+')}" if _is_value(o) else o for o in overrides]


def validate(config: DictConfig, overrides: Sequence[str]) -> Settings:
    """Apply the optimizer's and the scale's block, then the command line again; check the types.

    Args:
        config: what Hydra composed; left as it was.
        overrides: the command line that it was composed with.

    Raises:
        ConfigError: see :func:`compose_settings`.
    """
    for group in ("task", "optimizer", "tracking"):
        if not config.get(group):
            allowed = ", ".join(_options(group))
            raise ConfigError(f"{group}=null: one is needed; allowed are {allowed}")
    config = copy.deepcopy(config)
    OmegaConf.set_struct(config, False)
    name, scale = config.task.name, config.scale
    scales = config.get("scales") or {}
    if scale not in SCALES:
        hint = near(str(scale), SCALES)
        raise ConfigError(f"scale={shown(scale)}: must be one of {', '.join(SCALES)}{hint}")
    if scale != "paper" and scale not in scales:
        allowed = ", ".join(["paper", *scales])
        raise ConfigError(f"scale={scale}: task {name} has {allowed}")
    blocks = (config.get("optimizers") or {}).get(config.optimizer.name), scales.get(scale)
    for block in blocks:
        config = OmegaConf.merge(config, block or {})  # type: ignore[assignment]
    known = hyperparameters(config.optimizer.name)
    for key in [key for key in HYPERPARAMETERS if key not in known]:
        config.optimizer.pop(key, None)  # of the task's file, for those that have it
    for override in map(_parsed, overrides):
        key = override.key_or_group
        group, _, field = key.partition(".")
        if group == "optimizer" and field in HYPERPARAMETERS and field not in known:
            allowed = ", ".join(known)
            raise ConfigError(f"{override.input_line}: {config.optimizer.name} has {allowed} alone")
        if _is_value(str(override.input_line)):
            OmegaConf.update(config, key, override.value())
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = str(error.full_key)
        raw = OmegaConf.to_container(OmegaConf.select(config, key.rpartition(".")[0]) or config)
        value = raw[key.rpartition(".")[2]]  # type: ignore[index, call-overload]
        raise ConfigError(f"{key}={value}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    if not plain["output"]:  # an unset variable of the shell, say; it would be the current folder
        raise ConfigError("output=: must be the path of a folder")
    module = task_module(name)
    require_usable(config.optimizer.name, module, name)
    task = {key: value for key, value in plain["task"].items() if key != "name"}
    values = {key: plain[key] for key in plain if key in Settings.__dataclass_fields__} | {
        "task_name": name,
        "task": checked(module.Config, task, "task."),
        "optimizer": checked(Optimizer, plain["optimizer"], "optimizer."),
        "tracking": checked(Tracking, plain["tracking"], "tracking."),
        "figure": (plain.get("figure") or {}).get("name"),
    }
    result = checked(Settings, values, "")
    # A list among the task's own settings may be just a list; an optimizer's field or the seed not.
    for key in ("seed", *(f"optimizer.{field.name}" for field in fields(Optimizer))):
        value = lookup(result, key)
        if isinstance(value, list) and key not in getattr(module, "AXES", ()):
            one, *_ = value
            raise ConfigError(
                f"{key}={shown(value)}: {name} trains one value in a run, such as {one}; "
                f"sweep with -m {key}={','.join(map(shown, value))}"
            )
    return result


@cache
def composed(*overrides: str) -> DictConfig:
    """What Hydra composes from ``configs/``; shared, so not to be changed.

    Raises:
        ConfigError: for a group or an option that is not there.
    """
    try:
        if GlobalHydra.instance().is_initialized():  # inside a run that Hydra started
            return compose("config", list(overrides))
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("config", list(overrides))
    except MissingConfigException as error:
        if error.missing_cfg_file is None or not error.options:
            raise ConfigError(one_line(error)) from error
        group, _, name = error.missing_cfg_file.rpartition("/")
        raise unknown(group, name, name, error.options) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error)) from error


@cache
def _parsed(text: str) -> Override:
    """One override, its grammar and its top-level key checked."""
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except OverrideParseException as error:
        raise ConfigError(
            f"{text}: not key=value in Hydra's grammar ({str(error).splitlines()[0]}); "
            "quote a value that has = , or brackets in it"
        ) from None
    key = override.key_or_group
    first = re.split("[./]", key)[0]
    known = [field.name for field in fields(Settings) if field.name != "task_name"]
    value = text.partition("=")[2]
    if first in HYPERPARAMETERS:
        raise ConfigError(f"{text}: unknown (did you mean optimizer.{text}?)")
    if first not in (*known, "hydra"):
        raise unknown(key, value, first, known)
    if override.is_delete():
        raise ConfigError(f"{text}: a setting cannot be taken away, only given another value")
    if key in GROUPS and not (override.is_sweep_override() or isinstance(override.value(), str)):
        raise ConfigError(f"{text}: must be one of {', '.join(_options(key))}")
    if key in [f"{group}.name" for group in GROUPS]:
        raise ConfigError(f"{key}={value}: is chosen by {key.removesuffix('.name')}={value}")
    return override


def choices(text: str) -> list[str]:
    """The overrides of a single value that an override stands for: one, or those of its sweep.

    Raises:
        ConfigError: for a sweep that has no list of values.
    """
    override = _parsed(text)
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [text]
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        names = override.value().filter(_options(override.key_or_group))  # type: ignore[union-attr]
        return [f"{key}={name}" for name in names]
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{text}: an interval has no list of values; allowed are a,b,c and range()"
        )
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def decides(override: str) -> bool:
    """Whether an override changes which runs there are, beyond naming the figure and the scale."""
    key = _parsed(override).key_or_group
    return key in ("task", "optimizer") or (_is_value(override) and not key.startswith("tracking."))


def _is_value(override: str) -> bool:
    """Whether it sets one of the values that blocks also set, rather than a file or a folder."""
    key = _parsed(override).key_or_group
    return key == "seed" or key.startswith(("task.", "optimizer.", "tracking."))
