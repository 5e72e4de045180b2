"""The settings of optimizers, and the torch class or the rule that each of them is.

``configs/optimizer/<name>.yaml`` defines an optimizer::

    name: adamw
    _target_: torch.optim.AdamW  # any class or function that makes a torch optimizer
    decay: by_lr                 # the class scales its weight decay by lr, apart from the gradient
    names: {mu: "betas[0]"}      # the class's names for lr, mu, nu, epsilon, weight_decay
    lr: 1.0e-3                   # the hyper-parameters, by our names
    amsgrad: false               # any other argument of the class

``names`` is needed only where the class's names differ from :data:`NAMES`; null means that the
class has no such argument. It may also name further arguments, such as ``beta1: "betas[0]"``.
A hyper-parameter that the file does not name is not given to the class. ``_target_: null`` says
that there is no class.
A weight decay needs ``decay: by_lr``, or a class with LaProp's argument ``decay_by_lr``.
docs/extend.md has examples.
"""

from __future__ import annotations

import inspect
import logging
import re
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from hydra.utils import get_object
from pydantic import create_model

from experiments.common import CONFIGS
from experiments.common.files import read_config
from experiments.common.messages import ConfigError, checked, named, one_line, shown, unknown
from experiments.common.schema import Axis, Nonnegative, Unit, settings
from experiments.common.tasks import axes_of
from experiments.common.versions import program_behind
from laprop import LaProp
from laprop.functional import ALGORITHMS, Algorithm

OPTIMIZERS = tuple(sorted(file.stem for file in (CONFIGS / "optimizer").glob("*.yaml")))
HYPERPARAMETERS = ("lr", "mu", "nu", "epsilon")
NAMES = {
    "lr": "lr",
    "mu": "betas[0]",
    "nu": "betas[1]",
    "epsilon": "eps",
    "weight_decay": "weight_decay",
}
"""The names that most classes have for the hyper-parameters."""

# Variants that a rule of laprop.functional and the class of the same optimizer both have.
FLAGS = (
    *("amsgrad", "centered", "lr_in_momentum", "lr_weighted_correction"),
    *("eps_in_sqrt", "cautious"),
)
RULE_OPTIONS = (*FLAGS, "agc", "centered_warmup")  # the options of laprop.functional's rules


@settings
class Optimizer:
    """Hyper-parameters in the paper's symbols; one value each, or a list in a vectorised task.

    A hyper-parameter that the optimizer's file in ``configs/optimizer`` does not name is None.
    ``options`` holds further arguments of its class, without those at their default. ``definition``
    holds the file's entries about the class (``_target_``, ``names``, ``decay``) and, if the class
    is in this repository, a hash of its program. It is None for an optimizer with a rule in
    ``laprop.functional``, since the name alone determines the rule.
    """

    name: Literal[OPTIMIZERS]  # type: ignore[valid-type]
    lr: Axis[Nonnegative]  # lambda
    mu: Axis[Unit] | None = None  # beta1
    nu: Axis[Unit] | None = None  # beta2
    epsilon: Axis[Nonnegative] | None = None
    weight_decay: Nonnegative = 0.0
    decay_by_lr: bool = False  # False: theta (1 - w), the paper's; True: theta (1 - lr w), AdamW's
    options: dict[str, Any] | None = None
    definition: dict[str, Any] | None = None


@settings
class Name:
    """The name alone. It is checked first, because it determines the other settings."""

    name: Literal[OPTIMIZERS]  # type: ignore[valid-type]


DEFINITION = ("_target_", "names", "decay")  # keys of a file that are about the class
NEEDED = {  # keys that each file must have, and what each must be
    "_target_": "must be a class such as torch.optim.Adamax, or null where it has none",
    "lr": "must be a number; a task's own lr replaces it",
}
logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # the error says what it logs


# The files ----------------------------------------------------------------------------------------


@cache
def _file(name: str) -> dict[str, Any]:
    """The content of an optimizer's file in ``configs/optimizer``.

    Raises:
        ConfigError: the file cannot be read, or lacks a key of ``NEEDED``.
    """
    file = read_config(CONFIGS / "optimizer" / f"{name}.yaml")
    for key, what in NEEDED.items():
        if key not in file:
            raise ConfigError(f"configs/optimizer/{name}.yaml: {key}: missing; {what}")
    return file


def hyperparameters(optimizer: str) -> list[str]:
    """The ``HYPERPARAMETERS`` that an optimizer's file names."""
    return [name for name in HYPERPARAMETERS if name in _file(optimizer)]


def vectorised(task: ModuleType) -> bool:
    """Whether a task trains a batch of settings by the rules of ``laprop.functional``."""
    return any(axis.startswith("optimizer.") for axis in axes_of(task))


def by_rule(optimizer: str, task: ModuleType) -> bool:
    """Whether a task uses an optimizer's rule in place of its class."""
    return vectorised(task) and optimizer in ALGORITHMS


def require_usable(optimizer: str, task: ModuleType, name: str) -> None:
    """Refuse an optimizer that a task cannot use.

    Args:
        optimizer: the optimizer's name.
        task: the task's module; its ``OPTIMIZERS``, if defined, are the ones that it can use.
        name: the task's name.

    Raises:
        ConfigError: the message names the optimizers that the task can use.
    """
    own = getattr(task, "OPTIMIZERS", None)
    why = rules = ""
    if own is None and vectorised(task):
        own = ALGORITHMS
        why = "is vectorised and "
        rules = ", which have a rule in laprop.functional"

    def usable(name: str) -> bool:
        return bool(_file(name)["_target_"]) if own is None else name in own

    def listed(name: str) -> bool:
        with suppress(ConfigError):  # another file that cannot be read is not this one's mistake
            return usable(name)
        return False

    if not usable(optimizer):
        allowed = ", ".join(filter(listed, OPTIMIZERS))
        raise ConfigError(
            f"optimizer={optimizer}: is not for {name}, which {why}takes {allowed}{rules}"
        )


def option_default(optimizer: str, option: str) -> Any:
    """The value of an option that is not given, or None if the optimizer has no such option."""
    if optimizer not in OPTIMIZERS or not _file(optimizer)["_target_"]:
        return None
    kind = _kind(optimizer)
    return kind.implied().get(option, kind.default(option)) if option in kind.options else None


# The class ----------------------------------------------------------------------------------------


def sign_sgd(
    params: Any,
    lr: float = 4e-4,
    betas: tuple[float, float] = (0.9, 0.0),
    weight_decay: float = 0.0,
    decay_by_lr: bool = False,
) -> LaProp:
    """Signed SGD with momentum (Table 1), which is LaProp at nu = 0 and epsilon = 0.

    As in the rule of this name, lr is not inside the momentum.
    """
    return LaProp(
        params,
        lr=lr,
        betas=betas,
        eps=0.0,
        weight_decay=weight_decay,
        decay_by_lr=decay_by_lr,
        lr_in_momentum=False,
    )


Parameters = dict[str, inspect.Parameter]


def _class(name: str, target: str) -> tuple[Callable[..., torch.optim.Optimizer], Parameters]:
    """The class or function that ``_target_`` names, and its named arguments.

    The first argument is left out. It is the parameters to train.
    """
    try:
        found = get_object(target)
        every = list(inspect.signature(found).parameters.values())[1:]
    except Exception as error:  # whatever a package raises when it is imported
        why = error.__cause__ or error
        is_timm = isinstance(why, ModuleNotFoundError) and why.name == "timm"
        advice = "; pip install 'laprop[optimizers]' installs it" if is_timm else ""
        raise ConfigError(
            f"configs/optimizer/{name}.yaml: _target_={target}: cannot be imported "
            f"({one_line(why)}){advice}"
        ) from None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return found, {p.name: p for p in every if p.kind in named}


class _Class:
    """An optimizer's class, and its names for our hyper-parameters."""

    def __init__(self, name: str) -> None:
        file = _file(name)
        self.name, self.path, self.decay = name, file["_target_"], file.get("decay")
        if self.decay not in (None, "by_lr"):
            raise ConfigError(f"configs/optimizer/{name}.yaml: decay={self.decay}: must be by_lr")
        self.target, self.parameters = _class(name, self.path)
        self.slots: dict[str, tuple[str, int | None]] = {}
        given = file.get("names") or {}
        if not isinstance(given, dict):
            raise ConfigError(
                f"configs/optimizer/{name}.yaml: names={shown(given)}: must be such as "
                "{mu: momentum}"
            )
        for ours, theirs in (NAMES | given).items():
            if theirs is None and ours not in NAMES:
                raise unknown(
                    f"configs/optimizer/{name}.yaml: names.{ours}", "null", ours, [*NAMES]
                )
            argument, index = _slot(name, theirs)
            parameter = self.parameters.get(argument)
            elements = getattr(parameter, "default", None)
            length = len(elements) if isinstance(elements, Sequence) else 0
            if parameter is not None and (index is None or index < length):
                self.slots[ours] = argument, index
            elif given.get(ours) is not None:
                known = self.parameters.values() if parameter is None else [parameter]
                plain = (str(p.replace(annotation=p.empty)) for p in known)
                raise ConfigError(
                    f"configs/optimizer/{name}.yaml: names: {ours}={theirs}: {self.path} has "
                    f"{', '.join(plain)}"
                )

    @property
    def options(self) -> list[str]:
        """The names of its arguments other than our hyper-parameters."""
        taken = {argument for argument, _ in self.slots.values()} | {"weight_decay", "decay_by_lr"}
        further = [name for name in self.slots if name not in NAMES]
        return further + [name for name in self.parameters if name not in taken]

    def default(self, option: str) -> Any:
        """The value of an option that is not given."""
        argument, index = self.slots.get(option, (option, None))
        value = self.parameters[argument].default
        return value if index is None else value[index]

    def implied(self) -> dict[str, Any]:
        """Options that make the class follow the rule of this name: ``amsgrad`` for amsprop."""
        rule = ALGORITHMS.get(self.name)
        if rule is None:
            return {}
        chosen = [flag for flag in FLAGS if getattr(rule, flag)]
        if rule.lr_in_momentum:  # then the rule also determines the bias correction
            chosen.append("lr_weighted_correction")
        return {flag: getattr(rule, flag) for flag in chosen if flag in self.parameters}

    def arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The class's keyword arguments for values that are given by our names."""
        arguments: dict[str, Any] = {}
        for name, value in values.items():
            argument, index = self.slots.get(name, (name, None))
            if str(argument).endswith("dtype") and isinstance(value, str):
                value = getattr(torch, value, None)
                if not isinstance(value, torch.dtype):
                    raise ValueError("must be a dtype of torch, such as bfloat16")
            if index is None:
                arguments[argument] = value
            else:
                whole = list(arguments.get(argument, self.parameters[argument].default))
                whole[index] = value
                arguments[argument] = tuple(whole)
        return arguments


_kind = cache(_Class)


def _slot(name: str, text: str | None) -> tuple[str, int | None]:
    """``betas[0]`` as ``("betas", 0)``, ``eps`` as ``("eps", None)``; null as an empty name."""
    match = re.fullmatch(r"(\w*)(?:\[(\d+)\])?", str(text or ""))
    if not match:
        raise ConfigError(
            f"configs/optimizer/{name}.yaml: names: {text}: must be an argument's name, or an "
            "element of one such as betas[0]"
        )
    return match[1], None if match[2] is None else int(match[2])


def slots(optimizer: str) -> dict[str, tuple[str, int | None]]:
    """For each of our hyper-parameters the key of a class's param group and an index, or None."""
    return _kind(optimizer).slots


def torch_optimizer(
    settings: Optimizer, params: Any, *, fused: bool | None = None
) -> torch.optim.Optimizer:
    """The torch optimizer whose steps are those of ``laprop.functional``'s rule of the same name.

    Args:
        settings: settings with one value for each hyper-parameter.
        params: parameters or groups.
        fused: the argument of this name of torch's own classes; LaProp chooses by itself.
    """
    kind = _kind(settings.name)
    values = _values(settings, kind)
    takes = kind.path.startswith("torch.") and "fused" in kind.parameters
    if fused is not None and takes and not values.get("foreach"):  # torch takes one of the two
        values = {"fused": fused} | values
    return kind.target(params, **kind.arguments(values))


def _values(of: Optimizer, kind: _Class) -> dict[str, Any]:
    """All values that a class is given, by our names."""
    values = {name: getattr(of, name) for name in (*HYPERPARAMETERS, "weight_decay")}
    values = {name: v for name, v in values.items() if v is not None and name in kind.slots}
    if "decay_by_lr" in kind.parameters:
        values["decay_by_lr"] = of.decay_by_lr
    return values | kind.implied() | (of.options or {})


# The rule -----------------------------------------------------------------------------------------


def rule(of: Optimizer, lr_changes: bool) -> tuple[Algorithm, dict[str, Any]]:
    """The rule of an optimizer's name with its options, for a vectorised task.

    Args:
        of: an optimizer that has a rule.
        lr_changes: whether the learning rate is scheduled. If so, the rules of LaProp's family
            multiply by it inside the momentum, as the class does by default. For a constant rate
            this makes no difference but rounding.

    Returns:
        the rule, and the arguments of its ``step`` other than the hyper-parameters.
    """
    options = of.options or {}
    flags = {name: value for name, value in options.items() if name in FLAGS}
    algorithm = ALGORITHMS[of.name]
    if lr_changes and _file(of.name)["_target_"] == "laprop.LaProp":
        kind = _kind(of.name)
        inside = {name: kind.default(name) for name in ("lr_in_momentum", "lr_weighted_correction")}
        flags = inside | kind.implied() | flags
    rest = {name: value for name, value in options.items() if name not in FLAGS}
    return replace(algorithm, **flags), rest


# Checks -------------------------------------------------------------------------------------------


def checked_optimizer(plain: Mapping[str, Any], task: ModuleType, task_name: str) -> Optimizer:
    """The settings of an optimizer, checked against its class before anything runs.

    Args:
        plain: the composed values of ``optimizer``.
        task: the module of the task that will use it.
        task_name: the task's name.

    Raises:
        ConfigError: the message names the setting, its value and what is allowed.
    """
    name = checked(Name, {"name": plain["name"]}, "optimizer.").name
    require_usable(name, task, task_name)
    file, ours = _file(name), [field.name for field in fields(Optimizer)]
    for key in DEFINITION:
        if plain.get(key) != file.get(key):
            raise ConfigError(
                f"optimizer.{key}={shown(plain.get(key))}: can only be set in "
                f"configs/optimizer/{name}.yaml; to use another class, add a file for it"
            )
    kind = _kind(name) if file["_target_"] else None
    options = kind.options if kind else []
    given = {k: v for k, v in plain.items() if k not in (*ours[:-2], *DEFINITION)}
    for option, value in given.items():
        if option not in options:
            known = [*hyperparameters(name), "weight_decay", "decay_by_lr", *options]
            raise unknown(f"optimizer.{option}", shown(value), option, known)
    of = checked(Optimizer, {k: v for k, v in plain.items() if k in ours[:-2]}, "optimizer.")
    if empty := [key for key in hyperparameters(name) if getattr(of, key) is None]:
        raise ConfigError(f"optimizer.{empty[0]}=null: must be a number")
    if kind is None:
        _refuse_decay(of, None, task, task_name)
        return of
    for missing in set(hyperparameters(name)) - kind.slots.keys():
        advice = "it names no arguments"
        if kind.parameters:
            advice = f"say in names what it is called there: {', '.join(kind.parameters)}"
        raise ConfigError(
            f"configs/optimizer/{name}.yaml: {missing}: {kind.path} has no "
            f"{NAMES[missing]}; {advice}"
        )
    values = _typed(kind, given)
    values = {k: v for k, v in values.items() if v != kind.implied().get(k, kind.default(k))}
    definition = None if name in ALGORITHMS else _definition(file)
    of = replace(of, options=values or None, definition=definition)
    _refuse_options(of, kind, task, task_name)
    _refuse_decay(of, kind, task, task_name)
    if values or of.weight_decay or of.definition:
        _construct(of, kind)
    return of


def _definition(file: Mapping[str, Any]) -> dict[str, Any]:
    """What determines an optimizer besides its settings, see :class:`Optimizer`."""
    program = program_behind(file["_target_"])
    entries = {key: file[key] for key in DEFINITION if key in file}
    return entries if program is None else entries | {"program": program}


def _typed(kind: _Class, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options, converted to the types that the class declares."""
    result = checked(_schema(kind.name), given, "optimizer.") if given else None
    return {name: getattr(result, name) for name in given}


@cache
def _schema(name: str) -> type:
    """A class whose fields are the options of an optimizer."""
    kind, types_ = _kind(name), {}
    for option in kind.options:
        argument = kind.slots.get(option, (option, None))[0]
        # An element of an argument, such as of betas, is a number, whatever the argument's type.
        types_[option] = _type(kind, argument) if argument == option else float
    return create_model("Options", **{o: (t, None) for o, t in types_.items()})  # type: ignore


SIMPLE = (bool, int, float, str, type(None))


def _type(kind: _Class, argument: str) -> Any:
    """The type of an argument as far as YAML can express it; Any if it is not declared."""
    parameter = kind.parameters[argument]
    if argument.endswith("dtype"):
        return str | None  # the class knows which ones it takes
    try:
        made = kind.target.__init__ if inspect.isclass(kind.target) else kind.target
        hint = typing.get_type_hints(made).get(argument)
    except (NameError, TypeError):
        hint = None
    if hint is None:  # without an annotation, the type of the default
        default = parameter.default
        if isinstance(default, bool):
            return bool
        return int | float if isinstance(default, int | float) else Any
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        known = tuple(t for t in typing.get_args(hint) if t in SIMPLE)
        return typing.Union[known] if known and known != (type(None),) else Any  # noqa: UP007
    inner = typing.get_args(hint)
    return hint if hint in SIMPLE or all(isinstance(t, str) or t in SIMPLE for t in inner) else Any


def _refuse_options(of: Optimizer, kind: _Class, task: ModuleType, task_name: str) -> None:
    """Refuse options that the task would ignore."""
    taken = getattr(task, "OPTIONS", RULE_OPTIONS if by_rule(of.name, task) else kind.options)
    for name, value in (of.options or {}).items():
        setting = f"optimizer.{name}={shown(value)}"
        if name not in taken:
            allowed = ", ".join(o for o in kind.options if o in taken) or "none"
            why = f"is vectorised and {of.name}'s rule has" if by_rule(of.name, task) else "takes"
            raise ConfigError(f"{setting}: {task_name} {why} {allowed} of its options")


def _refuse_decay(of: Optimizer, kind: _Class | None, task: ModuleType, task_name: str) -> None:
    """Refuse a weight decay that the optimizer would ignore, or scale contrary to the settings."""
    if getattr(task, "OWN_DECAY", False):
        return
    decay = f"optimizer.weight_decay={of.weight_decay}: must be 0"
    if of.weight_decay and getattr(task, "OPTIONS", None) == ():
        raise ConfigError(f"{decay} in {task_name}")
    if by_rule(of.name, task):
        scale = np.max(of.lr) if of.decay_by_lr else 1.0
        if of.weight_decay * scale > 1:
            times = " times optimizer.lr" if of.decay_by_lr else ""
            raise ConfigError(f"optimizer.weight_decay={of.weight_decay}:{times} must be at most 1")
        return
    scales = kind is not None and (kind.decay == "by_lr" or "decay_by_lr" in kind.parameters)
    if of.decay_by_lr and not scales:
        raise ConfigError(
            f"optimizer.decay_by_lr=true: must be false; {of.name} has no decay that lr scales"
        )
    if not of.weight_decay:
        return
    if kind is None or "weight_decay" not in kind.slots:
        raise ConfigError(f"{decay}; {of.name} has no decoupled weight decay")
    if not scales:
        raise ConfigError(
            f"{decay}; if the weight decay of {kind.path} is decoupled and scaled by lr, put "
            f"decay: by_lr into {of.name}.yaml"
        )
    if kind.decay == "by_lr" and not of.decay_by_lr:
        raise ConfigError(
            f"optimizer.decay_by_lr=false: {kind.path} scales the decay by lr; "
            "set optimizer.decay_by_lr=true"
        )


def _construct(of: Optimizer, kind: _Class) -> None:
    """Construct the optimizer of one small parameter, to check its settings.

    Raises:
        ConfigError: the class refuses a setting; the message names it.
    """
    values = {k: v[0] if isinstance(v, list) else v for k, v in _values(of, kind).items()}

    def attempt(names: Iterable[str]) -> Exception | None:
        chosen = {name: values[name] for name in names}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                made = kind.target(
                    [torch.nn.Parameter(torch.zeros(2, 2))], **kind.arguments(chosen)
                )
            except Exception as error:  # a class from elsewhere may raise any type
                return error
        if not isinstance(made, torch.optim.Optimizer):
            raise ConfigError(
                f"configs/optimizer/{of.name}.yaml: _target_={kind.path}: must make a "
                f"torch.optim.Optimizer, but makes a {type(made).__name__}"
            )
        return None

    if (error := attempt(values)) is None:
        return
    bare = attempt([])
    if bare is not None and named(bare) == named(error):  # whatever the settings are
        raise ConfigError(f"configs/optimizer/{of.name}.yaml: _target_={kind.path}: {named(error)}")
    for name, value in values.items():
        if alone := attempt([name]):
            why = one_line(alone)
            if name.endswith("dtype"):
                why = why.replace("torch.", "")  # as one types it
            raise ConfigError(f"optimizer.{name}={shown(value)}: {why}")
    raise ConfigError(f"optimizer={of.name}: {one_line(error)}")
