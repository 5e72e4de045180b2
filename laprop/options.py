"""Checks of the options of a param group of :class:`laprop.LaProp`."""

from __future__ import annotations

import difflib
import math
import sys
import warnings
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "OPTIONS",
    "check_average",
    "check_differentiable",
    "check_kinds_of_betas",
    "checked",
    "checked_group",
    "is_rounded_0",
    "momentum_of",
    "refuse_near_misses",
    "warn",
    "warn_of_decay",
]


# --- one option: its name, its value, and whether values of tensors are read ----------------------

_NOT_REAL = (torch.bool, torch.complex32, torch.complex64, torch.complex128)


def _number(value: Any, what: str, high: float, allowed: str) -> float:
    """Return a number as a float if it is at least 0 and below ``high``."""
    if type(value) is not float:  # asked first, because isinstance with Real takes much longer
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"Invalid {what}: {value!r} (allowed: a number, {allowed})")
        try:
            value = float(value)
        except OverflowError:  # a large integer or fraction
            value = math.inf if value > 0 else -math.inf
    number: float = value
    if not 0.0 <= number < high:
        raise ValueError(f"Invalid {what}: {number} (allowed: {allowed})")
    return number


def _number_or_tensor(
    name: str, value: Any, what: str, high: float, allowed: str, read_tensors: bool
) -> float | Tensor:
    if not isinstance(value, Tensor):
        return _number(value, what, high, allowed)
    if value.numel() != 1:
        raise ValueError(f"Tensor {name} must be 1-element, but its shape is {tuple(value.shape)}")
    if value.dtype in _NOT_REAL:
        raise TypeError(f"Invalid {what}: {value.dtype} (allowed: a real number, {allowed})")
    if read_tensors and value.device.type == "meta":
        raise ValueError(f"Invalid {what}: a tensor without a value, on meta (allowed: {allowed})")
    if read_tensors and not 0.0 <= value < high:
        raise ValueError(f"Invalid {what}: {value} (allowed: {allowed})")
    return value


def _lr(key: str, value: Any, read_tensors: bool) -> float | Tensor:
    return _number_or_tensor(key, value, "learning rate", math.inf, "0 <= lr < inf", read_tensors)


def _betas(key: str, value: Any, read_tensors: bool) -> tuple[float | Tensor, ...]:
    try:  # configuration files give lists of their own types, NumPy and torch arrays
        mu, nu = [] if isinstance(value, str | set | dict) else value
    except (TypeError, ValueError):
        raise ValueError(f"Invalid betas: {value!r} (allowed: two values, (mu, nu))") from None
    return tuple(
        _number_or_tensor(
            f"{key}[{i}]", beta, f"beta parameter at index {i}", 1.0, "0 <= beta < 1", read_tensors
        )
        for i, beta in enumerate((mu, nu))
    )


def _eps(key: str, value: Any, _: bool) -> float:
    return _number(value, "epsilon value", math.inf, "0 <= eps < inf")


def _weight_decay(key: str, value: Any, _: bool) -> float:
    return _number(value, "weight_decay value", math.inf, "0 <= weight_decay < inf")


def _agc(key: str, value: Any, _: bool) -> float | None:
    if value is None:
        return None
    allowed = "0 < agc < inf, or None"
    bound = _number(value, key, math.inf, allowed)
    if bound == 0:
        raise ValueError(f"Invalid agc: {value} (allowed: {allowed})")
    return bound


def _centered_warmup(key: str, value: Any, _: bool) -> int:
    integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not integer or not 0 <= value < 2**24:  # the counter of steps, in float32, goes no further
        allowed = f"an integer, 0 <= {key} < 2**24"
        raise ValueError(f"Invalid {key}: {value!r} (allowed: {allowed})")
    return int(value)


def _low_precision(key: str, value: Any, _: bool) -> str:
    allowed = ("master", "stochastic", "nearest")
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"Invalid {key}: {value!r} (allowed: {', '.join(allowed)})")
    return str(value)


def _state_dtype(key: str, value: Any, _: bool) -> str | None:
    if value is None:
        return None
    if value is not torch.bfloat16 and not (isinstance(value, str) and value == "bfloat16"):
        raise ValueError(f"Invalid {key}: {value!r} (allowed: None, torch.bfloat16, 'bfloat16')")
    return "bfloat16"  # torch's checkpoints take no dtype in a group


def _flag(key: str, value: Any, _: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"Invalid {key}: {value!r} (allowed: True or False)")
    return value


def _flag_or_none(key: str, value: Any, _: bool) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"Invalid {key}: {value!r} (allowed: True, False or None)")
    return value


_CHECKS: dict[str, Callable[[str, Any, bool], Any]] = {
    "lr": _lr,
    "betas": _betas,
    "eps": _eps,
    "weight_decay": _weight_decay,
    "amsgrad": _flag,
    "centered": _flag,
    "centered_warmup": _centered_warmup,
    "agc": _agc,
    "cautious": _flag,
    "decay_by_lr": _flag,
    "eps_in_sqrt": _flag,
    "lr_in_momentum": _flag,
    "lr_weighted_correction": _flag,
    "low_precision": _low_precision,
    "state_dtype": _state_dtype,
    "maximize": _flag,
    "foreach": _flag_or_none,
    "fused": _flag_or_none,
    "capturable": _flag,
    "differentiable": _flag,
}
OPTIONS = tuple(_CHECKS)


# --- all options of a group -----------------------------------------------------------------------


def checked(
    options: dict[str, Any], changed: Iterable[str] = OPTIONS, *, read_tensors: bool = True
) -> dict[str, Any]:
    """Return those options that changed after a check, with numbers of NumPy as Python's own.

    Error messages begin as torch.optim.Adam's do, and then say which values are allowed.

    Args:
        options: All options of a group.
        changed: Names of those that were not checked before.
        read_tensors: Whether values of tensors are checked. Reading one waits for its device.

    Raises:
        ValueError: A value is out of its range.
        TypeError: A value is of the wrong type.
        RuntimeError: Two options exclude each other.
    """
    result = {key: _CHECKS[key](key, options[key], read_tensors) for key in changed}
    if options["weight_decay"] > 1 and not options["decay_by_lr"]:
        raise ValueError(
            f"Invalid weight_decay value: {options['weight_decay']} (allowed: weight_decay <= 1 "
            "with decay_by_lr=False, where the weights are multiplied by 1 - weight_decay)"
        )
    if options["differentiable"]:
        for implementation in ("fused", "foreach"):
            if options[implementation]:
                raise RuntimeError(f"`{implementation}` does not support `differentiable`")
        if options["state_dtype"] is not None:
            raise ValueError(
                f"Invalid state_dtype: {options['state_dtype']} with differentiable=True (allowed: "
                "None, because rounding at random has no derivative)"
            )
    if options["centered"] and options["state_dtype"] is not None:
        raise ValueError(
            f"Invalid state_dtype: {options['state_dtype']} with centered=True (allowed: None, "
            "because two averages of 16 bits are too inexact for their difference, the variance)"
        )
    if options["fused"] and options["foreach"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    return result


def checked_group(group: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a param group after a check; those that it lacks are the defaults.

    An lr that a scheduler's rounding errors made negative becomes 0, as in a step. A group that was
    saved before that step can therefore be loaded.

    Raises:
        ValueError: A value is out of its range, or ``differentiable`` is not the default.
        TypeError: A value is of the wrong type.
        RuntimeError: Two options exclude each other.
    """
    options = {key: group.get(key, default) for key, default in defaults.items()}
    lr = options["lr"]
    if is_rounded_0(lr, group.get("initial_lr", defaults["lr"])):
        options["lr"] = torch.zeros_like(lr) if isinstance(lr, Tensor) else 0.0
    result = checked(options)
    check_differentiable(result["differentiable"], defaults)
    return result


def check_differentiable(value: bool, defaults: dict[str, Any]) -> None:
    """Check that a group's ``differentiable`` is the constructor's.

    Autograd is switched on or off for a whole step, so another value could have no effect.

    Raises:
        ValueError: It is another.
    """
    if value != defaults["differentiable"]:
        raise ValueError(
            f"Invalid differentiable: {value} in a param group (allowed: "
            f"{defaults['differentiable']}, as given to the constructor, which decides for all "
            "groups)"
        )


def check_kinds_of_betas(betas: Any) -> None:
    """Check that betas given to an optimizer are two floats or two tensors, as torch's Adam does.

    A step also accepts one of each: torch's schedulers replace the first of two tensors by a float.

    Raises:
        ValueError: They are one of each.
    """
    if len({isinstance(beta, Tensor) for beta in betas}) > 1:
        raise ValueError(f"betas must be either both floats or both Tensors, but are {betas}")


def momentum_of(group: dict[str, Any]) -> tuple[bool, bool]:
    """Return what decides what the momentum of a group is an average of.

    It is ``lr_in_momentum``, and ``lr_weighted_correction`` where that has an effect. A group keeps
    it under ``momentum_of``, since its options may change where no step sees it, such as in a file.
    """
    return group["lr_in_momentum"], group["lr_in_momentum"] and group["lr_weighted_correction"]


def check_average(group: dict[str, Any], states: Iterable[dict[str, Any]]) -> None:
    """Check that a group's momentum is an average of what its options say, and note what it is.

    Args:
        group: The group. If it does not say what its momentum is, its options are taken to say so.
        states: The state of each of its parameters.

    Raises:
        ValueError: It is an average of something else, and a step was made.
    """
    now = momentum_of(group)
    before = tuple(group.get("momentum_of", now))
    if before != now and any(map(_has_momentum, states)):
        key, was = ("lr_in_momentum", before[0])
        if before[0] == now[0]:
            key, was = ("lr_weighted_correction", before[1])
        raise ValueError(
            f"{key}={group[key]}: cannot be changed after a step (it was {was}), because the "
            "momentum so far is an average of something else"
        )
    group["momentum_of"] = now


def _has_momentum(state: dict[str, Any]) -> bool:
    """Return whether a parameter has a momentum. A step that failed leaves one of 0 steps."""
    try:
        return "exp_avg" in state and float(state.get("step", 0)) > 0
    except (AttributeError, TypeError, ValueError, RuntimeError):  # a step without a value
        return True


def is_rounded_0(lr: Any, initial_lr: Any) -> bool:
    """Return whether lr is below 0 only by a scheduler's rounding errors. A tensor is read.

    torch's LinearLR with ``end_factor=0`` may end at -5e-17 times the initial lr.
    """
    if not isinstance(lr, float) and isinstance(lr, Tensor) and lr.numel() == 1:
        lr = math.nan if lr.device.type == "meta" else lr.item()
    is_number = isinstance(lr, (float, Real))
    return is_number and lr < 0 and -lr <= 1e-12 * float(initial_lr)


def refuse_near_misses(group: dict[str, Any]) -> None:
    """Refuse a new group's key that looks like a misspelt option; any other key is allowed.

    A group of a checkpoint is not asked: another program may have put the key there since.

    Raises:
        ValueError: A key looks like a misspelt option.
    """
    for key in map(str, group.keys() - set(OPTIONS) - {"params"}):
        # Too much is similar to a name as short as lr, and min_momentum to lr_in_momentum.
        names = [x for x in OPTIONS if len(x) > 3 and (x != "lr_in_momentum" or key[:3] == "lr_")]
        # A key such as no_weight_decay, which contains an option's whole name, may be meant as it
        # is, so it must be even more similar to an option to be refused.
        about = any(f"_{option}_" in f"_{key}_" for option in OPTIONS)
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.9 if about else 0.8)
        if near:
            raise ValueError(
                f"Unknown key in param group: {key} (did you mean {near[0]}? Other keys that are "
                f"none of LaProp's options are kept and ignored: {', '.join(OPTIONS)})"
            )


def warn_of_decay(group: dict[str, Any]) -> None:
    """Warn of a weight decay that shrinks the weights by a thousandth or more in each step.

    Without ``decay_by_lr`` also warn of one above lr. It shrinks the weights as an AdamW with a
    weight_decay above 1 would, and AdamW's users give 1e-4 to 0.1, so the value was most likely
    meant to be scaled by lr. The paper's decay is smaller: 1e-4 at lr = 1e-3 for CIFAR-10. An lr of
    0, from which a schedule may begin, tells nothing.
    """
    share, lr, scaled = group["weight_decay"], group["lr"], group["decay_by_lr"]
    lr = lr.item() if isinstance(lr, Tensor) else lr
    if scaled:
        share *= lr
    if share >= 1e-3 or (not scaled and 0 < lr < share):
        cause = (
            f"lr={lr:g} times weight_decay={group['weight_decay']:g}"
            if scaled
            else f"weight_decay={share:g}, which does not scale with lr={lr:g} (give a value meant "
            "for AdamW together with decay_by_lr=True),"
        )
        warn(
            f"{cause} takes {share:.2g} of the weights in every step; without gradients they "
            f"halve in {max(1, round(math.log(0.5) / math.log1p(-min(share, 0.999999))))} steps"
        )


def warn(message: str) -> None:
    """Give a UserWarning that names the first line that is neither in this package nor in torch."""
    level, frame, ours = 1, sys._getframe(), ("laprop.", "torch.")
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(ours):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
