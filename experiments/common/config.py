"""From Hydra's composed YAML to validated settings: scales, axes, and one-line errors.

Order of precedence, weakest first: the optimizer's file, the task's file, the task's block for the
chosen optimizer (``optimizers.<name>``), the task's block for the chosen scale
(``scales.<scale>``), the command line (a figure's grid counts as command line).
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from annotated_types import Ge, Interval, MinLen
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Discriminator, Tag, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

import laprop

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"

OmegaConf.register_new_resolver(
    "range", lambda start, stop, step=1: list(range(start, stop, step)), replace=True
)
OmegaConf.register_new_resolver(
    "linspace",
    lambda first, last, count: [first + (last - first) * i / (count - 1) for i in range(count)],
    replace=True,
)

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass that refuses unknown keys and values out of range."""
    return dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)  # type: ignore[return-value]


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
    """Hyper-parameters in the paper's symbols; each is one value, or a list in a vectorised task."""

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
    seed: Axis[Annotated[int, Ge(0)]]
    scale: Literal[SCALES]  # type: ignore[valid-type]
    figure: str | None
    device: Annotated[str, "auto, cpu, cuda, cuda:0 ..."]
    threads: Annotated[int, Ge(1)] | None
    output: Path
    checkpoint_every: Annotated[float, Ge(0)]  # seconds
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

    @property
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
    return sorted(file.stem for file in (CONFIGS / "task").glob("*.yaml"))


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
    files = sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
    digest = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
                node
            ):
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


# Composition ------------------------------------------------------------------------------------


def compose_settings(overrides: Sequence[str]) -> Settings:
    """Compose the YAML files with ``overrides`` (Hydra's grammar) and validate the result.

    Raises:
        ConfigError: with one line that names the key, the value and what is allowed.
    """
    return validate(_compose(overrides), overrides)


def with_grid(overrides: Sequence[str]) -> list[str]:
    """The command line with its figure's grid at its scale written out; explicit settings win.

    Raises:
        ConfigError: where the figure has no grid at that scale.
    """
    given = {_key(text): text for text in overrides}
    if "figure" not in given:
        return list(overrides)
    base = _compose([given[key] for key in ("figure", "scale") if key in given])
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
    try:
        choices = [
            [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
            if o.is_sweep_override()
            else [str(o.input_line)]
            for o in OverridesParser.create().parse_overrides(with_grid(overrides))
        ]
    except HydraException as error:
        raise ConfigError(_one_line(error)) from error
    return [compose_settings(choice) for choice in itertools.product(*choices)]


def validate(config: DictConfig, overrides: Sequence[str]) -> Settings:
    """Apply the optimizer's and the scale's block, then the command line again; check the types.

    Args:
        config: what Hydra composed.
        overrides: the command line that it was composed with.

    Raises:
        ConfigError: see :func:`compose_settings`.
    """
    if config.task is None:
        raise ConfigError(f"task: choose one of {', '.join(tasks())}")
    name, scale = config.task.name, config.scale
    if scale not in SCALES:
        raise ConfigError(f"scale={scale}: allowed are {', '.join(SCALES)}")
    scales = config.get("scales") or {}
    if scale != "paper" and scale not in scales:
        allowed = ", ".join(["paper", *scales])
        raise ConfigError(f"scale={scale}: task {name} has {allowed}")
    OmegaConf.set_struct(config, False)
    blocks = (config.get("optimizers") or {}).get(config.optimizer.name), scales.get(scale)
    for block in blocks:
        config = OmegaConf.merge(config, block or {})  # type: ignore[assignment]
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element().lstrip("+")
        if key == "seed" or key.startswith(("task.", "optimizer.")):
            OmegaConf.update(config, key, override.value())
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from error
    assert isinstance(plain, dict)
    task = {key: value for key, value in plain["task"].items() if key != "name"}
    if name not in tasks():
        raise ConfigError(f"task.name={name}: allowed are {', '.join(tasks())}")
    module = task_module(name)
    fields = {
        "task_name": name,
        "task": _checked(module.Config, task, "task."),
        "figure": (plain.get("figure") or {}).get("name"),
    }
    taken = Settings.__dataclass_fields__.keys() - fields.keys()
    fields |= {key: plain[key] for key in taken}
    result: Settings = _checked(Settings, fields, "")
    allowed_axes = getattr(module, "AXES", ())
    for key in ["seed", *_dotted("optimizer", result.optimizer), *_dotted("task", result.task)]:
        if isinstance(lookup(result, key), list) and _is_axis(result, key, allowed_axes):
            raise ConfigError(
                f"{key}={lookup(result, key)}: {name} trains one value in a run; sweep with "
                f"-m {key}={','.join(str(v) for v in lookup(result, key))}"
            )
    return result


def _is_axis(result: Settings, key: str, allowed: Sequence[str]) -> bool:
    # A list in the task's own settings may be an ordinary list; optimizer fields and the seed not.
    return key not in allowed and not key.startswith("task.")


def _dotted(prefix: str, group: Any) -> list[str]:
    return [f"{prefix}.{name}" for name in group.__dataclass_fields__]


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        if GlobalHydra.instance().is_initialized():  # inside a run that Hydra started
            return compose("config", list(overrides))
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("config", list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error)) from error


# Errors -----------------------------------------------------------------------------------------


def _checked(schema: type[T], values: Mapping[str, Any], prefix: str) -> T:
    """Validate; every pydantic error becomes ``key=value: what is allowed``, joined to one line."""
    try:
        return TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_problem(e, schema, prefix) for e in error.errors())) from None


def _problem(error: Any, schema: type, prefix: str) -> str:
    path = [str(part) for part in error["loc"] if part not in ("value", "list")]
    key = prefix + ".".join(path)
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        for name in path[:-1]:
            schema = schema.__dataclass_fields__[name].type  # type: ignore[attr-defined]
        known = ", ".join(getattr(schema, "__dataclass_fields__", ()))
        return f"{key}={error['input']}: unknown key; allowed are {known}"
    message = error["msg"].replace("Input should be", "should be").rstrip(".")
    return f"{key}={error['input']!r}: {message}"


def _one_line(error: BaseException) -> str:
    """Hydra's and OmegaConf's errors, which span lines, as one; a key's siblings are named."""
    cause: BaseException | None = error
    while cause is not None:
        parent, key = getattr(cause, "parent_node", None), getattr(cause, "full_key", None)
        if key and OmegaConf.is_dict(parent):
            allowed = ", ".join(str(name) for name in parent)
            return f"{key}: unknown key; allowed are {allowed}"
        cause = cause.__cause__
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
