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
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator

from experiments.common.messages import ConfigError, checked, near, one_line, shown, unknown
from experiments.common.optimizers import (
    HYPERPARAMETERS,
    OPTIMIZERS,
    Optimizer,
    checked_optimizer,
    hyperparameters,
)
from experiments.common.schedules import Schedule, checked_schedule
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

    name: Literal["none", "tensorboard", "wandb"] = "none"
    project: str = "laprop"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"  # auto: online where an API key is known


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError("must be auto, cpu, cuda or cuda:<index>")
    return name


@settings
class Settings:
    """Everything that ``python -m experiments`` takes. ``task`` is the task's own ``Config``."""

    task_name: str
    task: Any
    optimizer: Optimizer
    seed: Axis[Annotated[int, Interval(ge=0, lt=2**63)]]
    scale: Literal[SCALES]  # type: ignore[valid-type]
    figure: str | None
    device: Annotated[str, AfterValidator(_device)]
    threads: Annotated[int, Ge(1)] | None
    output: Path
    checkpoint_every: Nonnegative  # seconds
    tracking: Tracking
    schedule: Schedule = Schedule()

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
        if schedule := _plain(self.schedule):
            plain["schedule"] = schedule
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
    return _settings(overrides)


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


def count(overrides: Sequence[str]) -> int:
    """How many runs a command line names, those that it names twice counted twice."""
    return sum(math.prod(len(choices(text)) for text in line) for line in command_lines(overrides))


def expand(overrides: Sequence[str]) -> list[Settings]:
    """Every run that a command line stands for: its sweeps and its figure's grid, validated.

    A run that the command line names twice is there once.

    Raises:
        ConfigError: for the first bad setting, before anything has run.
    """
    every: dict[str, Settings] = {}
    for line in command_lines(overrides):
        for choice in itertools.product(*map(choices, line)):
            settings = _settings(choice)
            every.setdefault(settings.key, settings)
    return list(every.values())


def _settings(overrides: Sequence[str]) -> Settings:
    """The settings of one run: those of the files that it names, then the values that it gives.

    Hydra composes the files once for each choice of files, and OmegaConf resolves the references
    in them once for each choice of what they refer to; the runs of a sweep share both.
    """
    files = tuple(text for text in overrides if _names_a_file(text))
    name = _base(*files)["optimizer"]["name"]
    known = hyperparameters(name)
    values = [text for text in overrides if not (_names_a_file(text) or _of_hydra(text))]
    for text in values:
        group, _, field = _parsed(text).key_or_group.partition(".")
        if group == "optimizer" and field in HYPERPARAMETERS and field not in known:
            raise ConfigError(f"{text}: {name} has {', '.join(known)} alone")
    first = tuple(text for text in values if _concerns_references(text, files))
    plain = copy.deepcopy(_resolved(files, first))
    for text in values:
        if text not in first:
            _put(plain, _parsed(text).key_or_group, _parsed(text).value())
    for group, inner in plain.items():
        for key, value in (inner if isinstance(inner, dict) else {group: inner}).items():
            if value == "???":
                raise ConfigError(f"{group}.{key}: missing; it has no default")
    return _validated(plain)


@cache
def _references(*files: str) -> str:
    """Every value of the composed files that refers to others, as one text."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from texts(item)
        elif isinstance(value, str) and "${" in value:
            yield value

    return " ".join(texts(_base(*files)))


def _concerns_references(text: str, files: tuple[str, ...]) -> bool:
    """Whether a value refers to others, or may be referred to by one of the files."""
    override = _parsed(text)
    name = override.key_or_group.rpartition(".")[2]
    return "${" in text or isinstance(override.value(), dict) or name in _references(*files)


@cache
def _resolved(files: tuple[str, ...], values: tuple[str, ...]) -> dict[str, Any]:
    """Composed files and these values without references, ``${...}``; not to be changed."""
    plain = copy.deepcopy(_base(*files))
    for text in values:
        _put(plain, _parsed(text).key_or_group, _parsed(text).value())
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
    except OmegaConfBaseException as error:
        *groups, name = str(error.full_key).split(".")
        for group in groups:
            plain = plain[group]
        what = str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key}={plain[name]}: {what}") from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


@cache
def _base(*files: str) -> dict[str, Any]:
    """The composed files with the optimizer's and the scale's block applied; not to be changed."""
    config = copy.deepcopy(composed(*files))
    OmegaConf.set_struct(config, False)
    for group in ("task", "optimizer", "tracking"):
        if not config.get(group):
            allowed = ", ".join(_options(group))
            raise ConfigError(f"{group}=null: one is needed; allowed are {allowed}")
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
    for key in ("grids", "scales", "optimizers"):
        config.pop(key, None)
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _put(plain: dict[str, Any], key: str, value: Any) -> None:
    """Set one value by its dotted key; of a dictionary, each of its values."""
    if isinstance(value, dict):
        for name, item in value.items():
            _put(plain, f"{key}.{name}", item)
        return
    *groups, name = key.split(".")
    for group in groups:
        plain = plain.setdefault(group, {})
        if not isinstance(plain, dict):
            raise ConfigError(f"{key}={shown(value)}: {group} is one value and has none below it")
    plain[name] = value


def _validated(plain: dict[str, Any]) -> Settings:
    """Settings from plain values: types, ranges, and what the task lets in."""
    if not plain["output"]:  # an unset variable of the shell, say; it would be the current folder
        raise ConfigError("output=: must be the path of a folder")
    name = plain["task"]["name"]
    module = task_module(name)
    own = {key: value for key, value in plain["task"].items() if key != "name"}
    optimizer = checked_optimizer(plain["optimizer"], module, name)
    task = checked(module.Config, own, "task.")
    values = {key: plain[key] for key in plain if key in Settings.__dataclass_fields__} | {
        "task_name": name,
        "task": task,
        "optimizer": optimizer,
        "schedule": checked_schedule(plain["schedule"], module, name, task, optimizer.name),
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


def plain_settings(settings: Settings) -> dict[str, Any]:
    """Settings as JSON and YAML hold them; :func:`restored` makes them settings again."""
    return dict(json.loads(json.dumps(asdict(settings), default=str)))  # paths as text


def restored(plain: dict[str, Any]) -> Settings:
    """The settings that :func:`plain_settings` wrote down, in another process or later."""
    config = task_module(plain["task_name"]).Config
    parts = {"task": config, "optimizer": Optimizer, "tracking": Tracking}
    return Settings(**plain | {name: part(**plain[name]) for name, part in parts.items()})


@cache
def composed(*overrides: str, with_hydra: bool = False) -> DictConfig:
    """What Hydra composes from ``configs/``; shared, so not to be changed.

    Args:
        overrides: in Hydra's grammar.
        with_hydra: keep Hydra's own settings, as its launchers need them.

    Raises:
        ConfigError: for a group or an option that is not there.
    """
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("config", list(overrides), return_hydra_config=with_hydra)
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
    override = _in_grammar(text)
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


def _in_grammar(text: str) -> Override:
    """One override by Hydra's grammar, which knows no letters beyond ASCII outside of quotes.

    Where it cannot read a path or such letters, they are taken as they were typed.
    """
    try:
        return OverridesParser.create().parse_overrides([text])[0]
    except OverrideParseException as error:
        key, equals, value = text.partition("=")
        if equals and key.isascii() and (key == "output" or not value.isascii()):
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            return OverridesParser.create().parse_overrides([f"{key}='{quoted}'"])[0]
        raise ConfigError(
            f"{text}: not key=value in Hydra's grammar ({str(error).splitlines()[0]}); "
            "quote a value that has = , or brackets in it"
        ) from None


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
    return re.split("[./=]", _parsed(override).key_or_group)[0] in (
        *("task", "optimizer", "schedule", "seed"),
    )


def _names_a_file(override: str) -> bool:
    """Whether it chooses a file of ``configs``, or the scale, which chooses a block of one."""
    return _parsed(override).key_or_group in (*GROUPS, "scale")


def _of_hydra(override: str) -> bool:
    """Whether it is a setting of Hydra itself, ``hydra/launcher=joblib``."""
    return _parsed(override).key_or_group.startswith("hydra")


def hydra_settings(overrides: Sequence[str]) -> DictConfig:
    """Hydra's own settings of a command line, for its launchers.

    Raises:
        ConfigError: for a launcher that is not there.
    """
    return composed(*(o for o in overrides if _of_hydra(o)), with_hydra=True)
