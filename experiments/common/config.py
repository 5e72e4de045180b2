"""From Hydra's composed YAML to validated settings: scales, axes, and one-line errors.

Order of precedence, weakest first: the optimizer's file, the task's file, the task's block for the
chosen optimizer (``optimizers.<name>``), the task's block for the chosen scale
(``scales.<scale>``), the command line (a figure's grid counts as command line).
"""

from __future__ import annotations

import ast
import copy
import difflib
import hashlib
import importlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from annotated_types import Ge, Interval, MinLen
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

import laprop

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
GROUPS = ("task", "optimizer", "figure", "tracking")  # folders of CONFIGS

OmegaConf.register_new_resolver(
    "range", lambda start, stop, step=1: list(range(start, stop, step)), replace=True
)
OmegaConf.register_new_resolver(
    "linspace",
    lambda first, last, n: [first + (last - first) * i / max(n - 1, 1) for i in range(n)],
    replace=True,
)

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass that refuses unknown keys and values out of range."""
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    return dataclass(frozen=True, config=config)(cls)  # type: ignore[return-value]


Axis = Annotated[
    Annotated[T, Tag("value")] | Annotated[list[T], MinLen(1), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "value"),
]
"""One value, or a list of values that a vectorised task trains as one batch: ``Axis[float]``."""

Nonnegative = Annotated[float, Ge(0)]
Unit = Annotated[float, Interval(ge=0, lt=1)]

OPTIMIZERS = tuple(sorted(file.stem for file in (CONFIGS / "optimizer").glob("*.yaml")))
SCALES = ("paper", "cpu", "smoke")


class ConfigError(Exception):
    """Bad input: its text is the one line that the user sees."""


@settings
class Optimizer:
    """Hyper-parameters in the paper's symbols; one value each, or a list in a vectorised task."""

    name: Literal[OPTIMIZERS]  # type: ignore[valid-type]
    lr: Axis[Nonnegative]  # lambda
    mu: Axis[Unit]  # beta1
    nu: Axis[Unit]  # beta2
    epsilon: Axis[Nonnegative]
    weight_decay: Nonnegative = 0.0
    decay_by_lr: bool = False  # False: theta (1 - w), the paper's; True: theta (1 - lr w), AdamW's


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
        """All that decides the result, as plain nested data: what the key is a hash of."""
        return {
            "task": {"name": self.task_name, **asdict(self.task)},
            "optimizer": asdict(self.optimizer),
            "seed": self.seed,
            "code": code_hash(self.task_name),
            "laprop": laprop.__version__,
        }

    @cached_property
    def key(self) -> str:
        """Sixteen hex digits that name this run; equal settings and code give equal keys."""
        text = json.dumps(self.decisive(), sort_keys=True)
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


@cache
def code_hash(task: str) -> str:
    """Hash of the task's program text without comments, docstrings and layout.

    An edit that can change a result makes a new key, so that a stale result is never taken for
    the new code's; an edit of a comment does not.
    """
    path = Path(str(task_module(task).__file__))
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    digest = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, documented) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


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


def with_grid(overrides: Sequence[str]) -> list[str]:
    """The command line with its figure's grid at its scale written out; explicit settings win.

    Raises:
        ConfigError: where the figure has no grid at that scale.
    """
    given = {_parsed(text).key_or_group: text for text in overrides}
    if "figure" not in given:
        return list(overrides)
    for key in {"figure", "scale"} & given.keys():
        if _parsed(given[key]).is_sweep_override():
            raise ConfigError(f"{given[key]}: one {key} at a time has a grid")
    base = composed(*(given[key] for key in ("figure", "scale") if key in given))
    if not base.get("figure"):
        return list(overrides)
    if base.scale not in base.grids:
        allowed = ", ".join(map(str, base.grids))
        raise ConfigError(f"scale={base.scale}: {given['figure']} has {allowed}")
    grid = OmegaConf.to_container(base.grids[base.scale])
    assert isinstance(grid, dict)
    return list(({str(key): f"{key}={value}" for key, value in grid.items()} | given).values())


def expand(overrides: Sequence[str]) -> list[Settings]:
    """Every run that a command line stands for: its sweeps and its figure's grid, validated.

    Raises:
        ConfigError: for the first bad setting, before anything has run.
    """
    values = [choices(text) for text in with_grid(overrides)]
    return [compose_settings(choice) for choice in itertools.product(*values)]


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
        near = _near(str(scale), SCALES)
        raise ConfigError(f"scale={_shown(scale)}: must be one of {', '.join(SCALES)}{near}")
    if scale != "paper" and scale not in scales:
        allowed = ", ".join(["paper", *scales])
        raise ConfigError(f"scale={scale}: task {name} has {allowed}")
    blocks = (config.get("optimizers") or {}).get(config.optimizer.name), scales.get(scale)
    for block in blocks:
        config = OmegaConf.merge(config, block or {})  # type: ignore[assignment]
    for override in map(_parsed, overrides):
        if _is_value(str(override.input_line)):
            OmegaConf.update(config, override.key_or_group, override.value())
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = str(error.full_key)
        raw = OmegaConf.to_container(OmegaConf.select(config, key.rpartition(".")[0]) or config)
        value = raw[key.rpartition(".")[2]]  # type: ignore[index, call-overload]
        raise ConfigError(f"{key}={value}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    module = task_module(name)
    task = {key: value for key, value in plain["task"].items() if key != "name"}
    values = {key: plain[key] for key in plain if key in Settings.__dataclass_fields__} | {
        "task_name": name,
        "task": _checked(module.Config, task, "task."),
        "optimizer": _checked(Optimizer, plain["optimizer"], "optimizer."),
        "tracking": _checked(Tracking, plain["tracking"], "tracking."),
        "figure": (plain.get("figure") or {}).get("name"),
    }
    result = _checked(Settings, values, "")
    # A list among the task's own settings may be just a list; an optimizer's field or the seed not.
    for key in ("seed", *(f"optimizer.{field.name}" for field in fields(Optimizer))):
        value = lookup(result, key)
        if isinstance(value, list) and key not in getattr(module, "AXES", ()):
            one, *_ = value
            raise ConfigError(
                f"{key}={_shown(value)}: {name} trains one value in a run, such as {one}; "
                f"sweep with -m {key}={','.join(map(_shown, value))}"
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
            raise ConfigError(_one_line(error)) from error
        group, _, name = error.missing_cfg_file.rpartition("/")
        raise _unknown(group, name, name, error.options) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error)) from error


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
    if first not in (*known, "hydra"):
        raise _unknown(key, value, first, known)
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


def _is_value(override: str) -> bool:
    """Whether it sets one of the values that blocks also set, rather than a file or a folder."""
    key = _parsed(override).key_or_group
    return key == "seed" or key.startswith(("task.", "optimizer.", "tracking."))


# Errors -----------------------------------------------------------------------------------------


def _checked(schema: type[T], values: Mapping[str, Any], prefix: str) -> T:
    """Validate one dataclass; pydantic's errors become ``key=value: what is allowed``."""
    adapter = TypeAdapter(schema)
    try:
        result = adapter.validate_python(values)
    except ValidationError as error:
        nodes = adapter.json_schema().get("properties", {})
        raise ConfigError("; ".join(_problem(e, nodes, prefix) for e in error.errors())) from None
    for name, value in values.items():  # pydantic takes true for 1
        if isinstance(value, bool) and not isinstance(getattr(result, name), bool):
            allowed = _allowed(adapter.json_schema()["properties"][name])
            raise ConfigError(f"{prefix}{name}={_shown(value)}: must be {allowed}")
    return result


def _problem(error: Any, nodes: Mapping[str, Any], prefix: str) -> str:
    """One of pydantic's errors as a line; ``nodes``: the JSON schema of each field."""
    name = str(error["loc"][0]) if error["loc"] else ""
    key, value = prefix + name, _shown(error["input"])
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return str(_unknown(key, value, name, [node for node in nodes if node != "name"]))
    if error["type"] in ("value_error", "assertion_error"):  # of a check that the task wrote itself
        return f"{key}={value}: {error['ctx']['error']}" if name else str(error["ctx"]["error"])
    if error["type"] == "missing" and len(error["loc"]) == 1:
        return f"{key}: missing; must be {_allowed(nodes[name])}"
    if error["type"] == "too_short":
        return f"{key}={value}: must not be empty"
    if error["type"] == "finite_number":
        return f"{key}={value}: must be finite"
    near = _near(value, nodes[name].get("enum", ()))
    return f"{key}={value}: must be {_allowed(nodes[name])}{near}"


def _allowed(node: Mapping[str, Any]) -> str:
    """What a JSON schema lets in, in words."""
    if "description" in node:
        return str(node["description"])
    if "enum" in node:
        return "one of " + ", ".join(map(_shown, node["enum"]))
    options = node.get("anyOf") or node.get("oneOf")
    if options:
        # An Axis is `x or a list of x`: whether the task takes the list, its AXES say.
        return ", or ".join(_allowed(o) for o in options if o.get("items") not in options)
    kind = node.get("type")
    if kind == "array":
        if "prefixItems" in node:
            return f"a list of {len(node['prefixItems'])} values"
        return f"a list, each {_allowed(node.get('items', {}))}"
    words = {
        "integer": "an integer",
        "number": "a number",
        "boolean": "true or false",
        "null": "null",
        "string": "text",
    }
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "greater than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
        "multipleOf": "a multiple of",
    }
    limits = " and ".join(f"{word} {node[key]}" for key, word in bounds.items() if key in node)
    noun = words.get(str(kind), str(kind)) if node.get("format") != "path" else "a path"
    return f"{noun}, {limits}" if limits else noun


def _unknown(key: str, value: str, name: str, allowed: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"{key}={value}: unknown{_near(name, allowed)}; allowed are {', '.join(allowed)}"
    )


def _near(name: str, allowed: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, allowed, 1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def _shown(value: Any) -> str:
    """A value as one would type it on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_shown, value))}]"
    return str(value) if not isinstance(value, bool | None) else json.dumps(value)


def _one_line(error: BaseException) -> str:
    """Hydra's and OmegaConf's errors, which span lines, as one."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
