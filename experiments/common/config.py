"""Composes YAML files and the command line with Hydra, and makes validated settings of them.

Later ones of these override earlier ones: the optimizer's file, the task's file, the task's block
for the chosen optimizer (``optimizers.<name>``), the task's block for the chosen scale
(``scales.<scale>``), a figure's grid, the command line.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)
from yaml import MarkedYAMLError, YAMLError

from experiments.common import CONFIGS
from experiments.common.files import no_yaml, read_config, shown_path
from experiments.common.messages import ConfigError, checked, near, one_line, shown, unknown
from experiments.common.optimizers import (
    HYPERPARAMETERS,
    OPTIMIZERS,
    Optimizer,
    checked_optimizer,
    hyperparameters,
)
from experiments.common.overrides import (
    GROUPS,
    choices,
    decides,
    names_a_file,
    of_hydra,
    options,
    parsed,
)
from experiments.common.schedules import USES, Schedule, checked_schedule, own_schedule
from experiments.common.settings import SCALES, Settings, Tracking, lookup
from experiments.common.tasks import axes_of, task_module

RESOLVERS = "${range:FIRST,STOP}, ${range:FIRST,STOP,STEP} or ${linspace:FIRST,LAST,COUNT}"
OmegaConf.register_new_resolver(
    "range", lambda start, stop, step=1: list(range(start, stop, step)), replace=True
)
OmegaConf.register_new_resolver(
    "linspace",
    lambda first, last, n: [first + (last - first) * i / max(n - 1, 1) for i in range(n)],
    replace=True,
)


def compose_settings(overrides: Sequence[str]) -> Settings:
    """Compose the YAML files with ``overrides`` (in Hydra's grammar) and validate the result.

    Raises:
        ConfigError: the message is one line that names the key, the value and what is allowed.
    """
    for override in map(parsed, overrides):
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: several values are a sweep: add -m")
    return _settings(overrides)


def command_lines(overrides: Sequence[str]) -> list[list[str]]:
    """The command line with the grid of its figure written out; settings of the user override it.

    Returns:
        one command line; if the figure's grid is a list of grids, one for each.

    Raises:
        ConfigError: the figure has no grid at this scale.
    """
    given = {parsed(text).key_or_group: text for text in overrides}
    if "figure" not in given:
        return [list(overrides)]
    for key in {"figure", "scale"} & given.keys():
        if parsed(given[key]).is_sweep_override():
            raise ConfigError(f"{given[key]}: must be one {key}, because each has its own grid")
    base = composed(*(given[key] for key in ("figure", "scale") if key in given))
    if not base.get("figure"):
        return [list(overrides)]
    every = base.get("grids")
    known = list(map(str, every)) if isinstance(every, DictConfig) else []
    if base.scale not in known:
        allowed = ", ".join(known) or "no grids"
        raise ConfigError(f"scale={base.scale}: {given['figure']} has {allowed}")
    found = OmegaConf.to_container(every)[base.scale]
    grids = found if isinstance(found, list) else [found]
    if not grids or not all(isinstance(grid, dict) for grid in grids):
        raise ConfigError(
            f"{given['figure']}: grids.{base.scale}={shown(found)}: must be KEY: VALUES"
        )
    if "task" in given:
        _check_other_task(given, base, grids)
    written = [
        {str(key): f"{key}={'null' if value is None else value}" for key, value in grid.items()}
        for grid in grids
    ]
    lines = [list({**own, **chosen}.values()) for own, chosen in _in_each(written, given)]
    if not lines:
        ours = {key for own in written for key in own}
        several = " ".join(text for key, text in given.items() if key in ours)
        raise ConfigError(
            f"{several}: no grid of {given['figure']} has all of these; other settings can be run "
            f"with task={base.task.name} in place of {given['figure']}"
        )
    return lines


def _in_each(
    written: Sequence[Mapping[str, str]], given: Mapping[str, str]
) -> Iterator[tuple[Mapping[str, str], dict[str, str]]]:
    """The grids of a figure, each with the overrides of the command line that concern it.

    A value that one grid lists and another does not is left out of the other, and with its last
    value a grid is left out. So ``optimizer=sgd`` takes the grid of SGD alone. A value that no grid
    lists is for all grids.

    Args:
        written: key -> override, of each grid.
        given: key -> override, of the command line.
    """
    listed = {key: [_values(own[key]) for own in written if key in own] for key in given}
    for own in written:
        chosen = {}
        for key, text in given.items():
            if key in own:
                elsewhere = [value for values in listed[key] for value in values]
                here = _values(own[key])
                kept = [
                    choice
                    for choice, value in zip(choices(text), _values(text), strict=True)
                    if value in here or value not in elsewhere
                ]
                if not kept:
                    break
                if len(kept) < len(choices(text)):
                    named, _, _ = text.partition("=")
                    text = f"{named}=" + ",".join(choice.partition("=")[2] for choice in kept)
            chosen[key] = text
        else:
            yield own, chosen


def _values(text: str) -> list[Any]:
    """The values of an override, each as Hydra's grammar reads it."""
    return [parsed(choice).value() for choice in choices(text)]


def _check_other_task(
    given: Mapping[str, str], base: DictConfig, grids: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse another task than the figure's if it lacks settings of the figure's grid.

    Args:
        given: key -> override of the command line.
        base: what the figure's files compose.
        grids: the figure's grids at this scale.
    """
    keys = dict.fromkeys(key for grid in grids for key in grid if str(key).startswith("task."))
    for choice in choices(given["task"]):
        name = str(parsed(choice).value())
        if name not in options("task"):
            continue  # composing its file raises the error
        known = {field.name for field in fields(task_module(name).Config)}
        lacks = [key for key in keys if key.partition(".")[2] not in known and key not in given]
        if lacks:
            raise ConfigError(
                f"{choice}: {given['figure']} is of task={base.task.name}, and its grid has "
                f"{', '.join(lacks)}, which {name} does not have"
            )


def count(overrides: Sequence[str]) -> int:
    """How many runs a command line names; one that it names twice counts twice."""
    return sum(math.prod(len(choices(text)) for text in line) for line in command_lines(overrides))


def expand(overrides: Sequence[str]) -> list[Settings]:
    """The validated settings of every run of a command line, from its sweeps and its figure's grid.

    A run that the command line names twice is returned once.

    Raises:
        ConfigError: for the first bad setting, before anything has run.
    """
    every: dict[str, Settings] = {}
    for line in command_lines(overrides):
        for text in line:
            if not (decides(text) or text.startswith("scale=")):
                _require_one_value(text)
        for choice in itertools.product(*map(choices, line)):
            settings = _settings(choice)
            every.setdefault(settings.key, settings)
    return list(every.values())


def _require_one_value(override: str) -> None:
    """Refuse a sweep over what does not make another run."""
    if len(choices(override)) > 1:
        raise ConfigError(f"{override}: must be one value, as it does not make another run")


def _settings(overrides: Sequence[str]) -> Settings:
    """The settings of one run, from the files and the values that its overrides name.

    Composing files and resolving references (``${...}``) is slow, so the runs of a sweep share the
    results. Files are composed once for each choice of files. References are resolved once for each
    choice of the values that they depend on.
    """
    files = tuple(text for text in overrides if names_a_file(text))
    name = _base(*files)["optimizer"]["name"]
    known = hyperparameters(name)
    values = [text for text in overrides if not (names_a_file(text) or of_hydra(text))]
    for text in values:
        group, _, field = parsed(text).key_or_group.partition(".")
        if group == "optimizer" and field in HYPERPARAMETERS and field not in known:
            raise ConfigError(f"{text}: {name} has no {field}; it has {', '.join(known)}")
    references = " ".join([_references(*files), *(text for text in values if "${" in text)])
    first = tuple(text for text in values if _concerns_references(text, references))
    plain = copy.deepcopy(_resolved(files, first))
    _drop_unused(plain["schedule"], values)
    for text in values:
        if text not in first:
            _put(plain, parsed(text).key_or_group, parsed(text).value())
    for group, inner in plain.items():
        for key, value in (inner if isinstance(inner, dict) else {group: inner}).items():
            if value == "???":
                raise ConfigError(f"{group}.{key}: missing; it has no default")
    result = _validated(plain)
    _refuse_constant(values, result)
    return result


def _drop_unused(schedule: Any, values: Sequence[str]) -> None:
    """Remove what the files say about a schedule if the user chooses a shape that does not use it.

    Args:
        schedule: the plain values of ``schedule``, which are changed.
        values: the values that the user gives; they are kept, so that a wrong one is refused.
    """
    given = {parsed(text).key_or_group: parsed(text).value() for text in values}
    for name, part in schedule.items() if isinstance(schedule, dict) else ():
        uses = USES.get(str(given.get(f"schedule.{name}.shape")))
        if uses is None or not isinstance(part, dict):
            continue
        for field in set(part) - {"warmup", *uses}:
            if f"schedule.{name}.{field}" not in given:
                del part[field]


def _refuse_constant(values: Sequence[str], run: Settings) -> None:
    """Refuse a schedule that the user sets to constant if the task has a schedule of its own.

    The task's schedule replaces a constant one, so the run would not do what the user typed.
    """
    own = own_schedule(task_module(run.task_name), run.task)
    for text in values:
        group, _, rest = parsed(text).key_or_group.partition(".")
        name, _, field = rest.partition(".")
        constant = group == "schedule" and field == "shape" and parsed(text).value() == "constant"
        if constant and getattr(own, name) != getattr(Schedule(), name):
            raise ConfigError(
                f"{text}: {run.task_name} has its own schedule of {name} (from task.*), which a "
                "constant one does not replace; choose another shape"
            )


@cache
def _references(*files: str) -> str:
    """Every value of the composed files that refers to others, as one text."""
    return _referring(_base(*files))


def _referring(plain: Any) -> str:
    """Every value that refers to others, as one text."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from texts(item)
        elif isinstance(value, str) and "${" in value:
            yield value

    return " ".join(texts(plain))


def _concerns_references(text: str, references: str) -> bool:
    """Whether an override contains a reference, or its key may be among the references."""
    override = parsed(text)
    name = override.key_or_group.rpartition(".")[2]
    return "${" in text or isinstance(override.value(), dict) or name in references


@cache
def _resolved(files: tuple[str, ...], values: tuple[str, ...]) -> dict[str, Any]:
    """Composed files and these values, with references ``${...}`` resolved; do not change it."""
    plain = copy.deepcopy(_base(*files))
    for text in values:
        _put(plain, parsed(text).key_or_group, parsed(text).value())
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
    except OmegaConfBaseException as error:
        *groups, name = re.sub(r"\[\d+\]", "", str(error.full_key)).split(".")
        for group in groups:
            plain = plain[group]
        what, text = str(error).splitlines()[0], str(plain[name])
        if isinstance(error, UnsupportedInterpolationType) or (
            re.search(r"\$\{(range|linspace):", text)
            and not isinstance(error, InterpolationKeyError)
        ):
            what = f"must be {RESOLVERS}, of numbers"
        raise ConfigError(f"{error.full_key}={text}: {what}") from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


@cache
def _base(*files: str) -> dict[str, Any]:
    """The composed files with the optimizer's and the scale's block applied; do not change it."""
    config = copy.deepcopy(composed(*files, with_hydra=True))
    OmegaConf.set_struct(config, False)
    _check_names(config, config.pop("hydra").runtime.choices)
    name, scale = config.task.name, config.scale
    optimizers = _blocks(config, "optimizers", OPTIMIZERS)
    scales = _blocks(config, "scales", SCALES)
    if scale not in SCALES:
        hint = near(str(scale), SCALES)
        raise ConfigError(f"scale={shown(scale)}: must be one of {', '.join(SCALES)}{hint}")
    if scale != "paper" and scale not in scales:
        allowed = ", ".join(["paper", *scales])
        raise ConfigError(f"scale={scale}: task {name} has {allowed}")
    try:
        for block in (optimizers.get(config.optimizer.name), scales.get(scale)):
            config = OmegaConf.merge(config, block or {})
    except OmegaConfBaseException as error:  # such as a list in the place of a number
        raise ConfigError(f"configs/task/{name}.yaml: {one_line(error)}") from error
    known = hyperparameters(config.optimizer.name)
    for key in [key for key in HYPERPARAMETERS if key not in known]:
        config.optimizer.pop(key, None)  # the task's file sets it for the optimizers that have it
    for key in ("grids", "scales", "optimizers"):
        config.pop(key, None)
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    keys = ["optimizers", "scales", *Settings.__dataclass_fields__]
    for key in plain.keys() - set(keys):
        if str(key) not in _referring(plain):  # such as a table that other values refer to
            raise unknown(str(key), shown(plain[key]), str(key), keys)
    return {str(key): value for key, value in plain.items()}


def _check_names(config: DictConfig, chosen: DictConfig) -> None:
    """Check that a file is chosen of each group that needs one, and that each has its own name.

    Args:
        config: the composed files.
        chosen: group -> name of the chosen file.
    """
    for group in GROUPS:
        if (file := chosen[group]) is not None:
            name = OmegaConf.select(config, f"{group}.name")
            if name != file:
                key = "name" if group == "optimizer" else f"{group}.name"
                place = f"configs/{group}/{file}.yaml"
                raise ConfigError(f"{place}: {key}={shown(name)}: must be {file}")
        elif group != "figure":
            allowed = ", ".join(options(group))
            raise ConfigError(f"{group}=null: one is needed; allowed are {allowed}")


def _blocks(config: DictConfig, key: str, allowed: Sequence[str]) -> Mapping[str, Any]:
    """The blocks of a task's file for single optimizers, or for scales, by their names."""
    blocks: Mapping[str, Any] = config.get(key) or {}
    for name in blocks:
        if name not in allowed:
            raise unknown(key, shown(name), name, allowed)
    return blocks


def _put(plain: dict[str, Any], key: str, value: Any) -> None:
    """Set a value by its dotted key; of a dictionary set each value."""
    if isinstance(value, dict):
        for name, item in value.items():
            _put(plain, f"{key}.{name}", item)
        return
    *groups, name = key.split(".")
    for group in groups:
        plain = plain.setdefault(group, {})
        if not isinstance(plain, dict):
            raise ConfigError(f"{key}={shown(value)}: {group} is a single value and has no keys")
    plain[name] = value


def _validated(plain: dict[str, Any]) -> Settings:
    """Settings from plain values, after checks of types, ranges, and what the task allows."""
    if not plain["output"]:  # such as an unset shell variable; it would mean the current folder
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
        "tracking": _checked_tracking(plain["tracking"]),
        "figure": (plain.get("figure") or {}).get("name"),
    }
    result = checked(Settings, values, "")
    for key in axes_of(module):
        value = lookup(result, key)
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ConfigError(f"{key}={shown(value)}: each value must be there only once")
    # A task's own setting may be a list by nature. A list of seeds or of an optimizer's
    # hyper-parameter is always a batch, which only a vectorised task can train.
    for key in ("seed", *(f"optimizer.{field.name}" for field in fields(Optimizer))):
        value = lookup(result, key)
        if isinstance(value, list) and key not in axes_of(module):
            one, *_ = value
            several = ",".join(map(shown, value))
            grid = f', or in a grid {key}: "{several}"' if result.figure else ""
            raise ConfigError(
                f"{key}={shown(value)}: {name} trains one value in a run, such as {one}; "
                f"sweep with -m {key}={several}{grid}"
            )
    return result


def _checked_tracking(plain: Mapping[str, Any]) -> Tracking:
    """The tracker; its settings are wandb's alone."""
    found = checked(Tracking, plain, "tracking.")
    for field in fields(found):
        value = getattr(found, field.name)
        if found.name != "wandb" and field.name != "name" and value != field.default:
            raise ConfigError(
                f"tracking.{field.name}={shown(value)}: needs tracking=wandb, not {found.name}"
            )
    return found


@cache
def composed(*overrides: str, with_hydra: bool = False) -> DictConfig:
    """What Hydra composes from ``configs/``. It is cached, so do not change it.

    Args:
        overrides: overrides in Hydra's grammar.
        with_hydra: whether to keep Hydra's own settings, which its launchers need.

    Raises:
        ConfigError: a group or an option does not exist.
    """
    quoted = [parsed(text).input_line or text for text in overrides]
    _check_files(overrides)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("config", quoted, return_hydra_config=with_hydra)
    except MissingConfigException as error:
        if error.missing_cfg_file is None or not error.options:
            raise ConfigError(one_line(error)) from error
        group, _, name = error.missing_cfg_file.rpartition("/")
        raise unknown(group, name, name, error.options) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error)) from error
    except MarkedYAMLError as error:  # such as a key that is there twice
        raise no_yaml(Path(error.problem_mark.name), error) from None
    except (YAMLError, UnicodeDecodeError):
        for path in sorted(CONFIGS.rglob("*.yaml")):
            read_config(path)  # names the file
        raise


def _check_files(overrides: Sequence[str]) -> None:
    """Refuse the first chosen file that cannot be read, or has a value where it must have keys.

    The file of a task or a figure must also have its package. Hydra's own errors name no file, or
    another one.
    """
    chosen = [(override.key_or_group, override.value()) for override in map(parsed, overrides)]
    for group, name in chosen:
        path = CONFIGS / group / f"{name}.yaml"
        if group not in GROUPS or not path.is_file():
            continue
        found = read_config(path)
        if group in ("task", "figure"):
            if not re.search("^# *@package _global_", path.read_text(encoding="utf-8"), re.M):
                raise ConfigError(f"{shown_path(path)}: its first line must be # @package _global_")
            _check_keys(shown_path(path), found)
        defaults = found.get("defaults")
        for entry in defaults if isinstance(defaults, list) else ():
            if isinstance(entry, dict):  # such as a figure's task
                more = [(str(key).rpartition("/")[2], value) for key, value in entry.items()]
                chosen += [choice for choice in more if choice not in chosen]


KEYED = re.compile(  # what holds keys in the file of a task or a figure
    r"((optimizers|scales)\.[^.]+\.)?(task|optimizer|tracking|schedule(\.[^.]+)?)"
    r"|(optimizers|scales)(\.[^.]+)?|figure|grids"
)


def _check_keys(file: str, values: Mapping[Any, Any], above: str = "") -> None:
    """Refuse a number, a text or a list where a file must have keys."""
    for name, value in values.items():
        key = f"{above}{name}"
        if isinstance(value, dict):
            _check_keys(file, value, f"{key}.")
        elif KEYED.fullmatch(key) and value is not None:
            raise ConfigError(f"{file}: {key}={shown(value)}: must be KEY: VALUE")


def hydra_settings(overrides: Sequence[str]) -> DictConfig:
    """Hydra's own settings of a command line, for its launchers.

    Raises:
        ConfigError: the launcher does not exist, or it does not have such a setting.
    """
    own = [text for text in overrides if of_hydra(text)]
    for text in own:
        _require_one_value(text)
    try:
        return composed(*own, with_hydra=True)
    except ConfigError:
        _refuse_first(own)
        raise


def _refuse_first(overrides: Sequence[str]) -> None:
    """Refuse the first of Hydra's own settings that does not exist or has a wrong type, if any."""
    groups = [text for text in overrides if "/" in parsed(text).key_or_group]
    chosen = composed(*groups, with_hydra=True)
    for text in [text for text in overrides if text not in groups]:
        override = parsed(text)
        above, _, name = override.key_or_group.rpartition(".")
        place = OmegaConf.select(chosen, above)
        known = [str(key) for key in place] if isinstance(place, DictConfig) else []
        if not (override.is_add() or name in known):
            allowed = [key for key in known if not key.startswith("_")]
            if not allowed:
                raise ConfigError(f"{text}: unknown; {above} has no settings here")
            raise unknown(override.key_or_group, text.partition("=")[2], name, allowed)
        try:
            composed(*groups, text, with_hydra=True)
        except ConfigError as error:
            cause = error.__cause__ and error.__cause__.__cause__
            if isinstance(cause, OmegaConfBaseException):
                kind = re.search(r"could not be converted to (\w+)", str(cause))
                what = f"must be of type {kind[1].lower()}" if kind else str(cause).splitlines()[0]
                raise ConfigError(f"{text}: {what}") from error
