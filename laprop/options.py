"""Checks of the options of a param group of :class:`laprop.LaProp`."""

from __future__ import annotations

import difflib
import math
import warnings
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

__all__ = ["checked", "refuse_near_misses", "warn_of_decay"]

_ROUNDINGS = ("master", "stochastic", "nearest")
_FLAGS = (
    *("amsgrad", "centered", "decay_by_lr", "eps_in_sqrt", "lr_in_momentum"),
    *("lr_weighted_correction", "cautious", "maximize", "capturable", "differentiable"),
)


def checked(options: dict[str, Any]) -> dict[str, Any]:
    """Return a group's options after a check, with numbers of NumPy and the like as Python's own.

    Error messages begin as torch.optim.Adam's do, and then say which values are allowed.

    Raises:
        ValueError: A value is out of its range.
        TypeError: A value is of the wrong type.
        RuntimeError: Two options exclude each other.
    """
    options = dict(options)
    options["lr"] = _number("lr", options["lr"], math.inf, "learning rate", "0 <= lr < inf")
    betas = options["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"Invalid betas: {betas!r} (allowed: two values, (mu, nu))")
    if isinstance(betas[0], Tensor) != isinstance(betas[1], Tensor):
        raise ValueError(f"betas must be either both floats or both Tensors, but are {betas}")
    options["betas"] = tuple(
        _number(f"betas[{i}]", beta, 1.0, f"beta parameter at index {i}", "0 <= beta < 1")
        for i, beta in enumerate(betas)
    )
    for key, what in (("eps", "epsilon value"), ("weight_decay", "weight_decay value")):
        if isinstance(options[key], Tensor):
            raise TypeError(f"Invalid {what}: {options[key]} (allowed: a float, {key} >= 0)")
        options[key] = _number(key, options[key], math.inf, what, f"0 <= {key} < inf")
    if options["weight_decay"] > 1 and not options["decay_by_lr"]:
        raise ValueError(
            f"Invalid weight_decay value: {options['weight_decay']} (allowed: weight_decay <= 1 "
            "with decay_by_lr=False, where the weights are multiplied by 1 - weight_decay)"
        )
    agc = options["agc"]
    if agc is not None:
        if isinstance(agc, Tensor):
            raise TypeError(f"Invalid agc: {agc} (allowed: None, or a float, 0 < agc < inf)")
        options["agc"] = _number("agc", agc, math.inf, "agc", "None, or 0 < agc < inf")
        if options["agc"] == 0:
            raise ValueError("Invalid agc: 0.0 (allowed: None, or 0 < agc < inf)")
    warmup = options["centered_warmup"]
    if not isinstance(warmup, Integral) or isinstance(warmup, bool) or warmup < 0:
        raise ValueError(f"Invalid centered_warmup: {warmup!r} (allowed: an integer >= 0)")
    options["centered_warmup"] = int(warmup)
    if options["low_precision"] not in _ROUNDINGS:
        raise ValueError(
            f"Invalid low_precision: {options['low_precision']!r} "
            f"(allowed: {', '.join(_ROUNDINGS)})"
        )
    if options["state_dtype"] not in (None, torch.bfloat16):
        raise ValueError(
            f"Invalid state_dtype: {options['state_dtype']!r} (allowed: None, torch.bfloat16)"
        )
    for key in (*_FLAGS, "foreach", "fused"):
        if not isinstance(options[key], bool) and (key in _FLAGS or options[key] is not None):
            raise TypeError(f"Invalid {key}: {options[key]!r} (allowed: True or False)")
    if options["fused"] and options["differentiable"]:
        raise RuntimeError("`fused` does not support `differentiable`")
    if options["fused"] and options["foreach"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    return options


def _number(name: str, value: Any, high: float, what: str, allowed: str) -> Any:
    """Return a number as a float, or a tensor as it is, if it is at least 0 and below ``high``."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"Tensor {name} must be 1-element, but its shape is {tuple(value.shape)}"
            )
    elif isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"Invalid {what}: {value!r} (allowed: a number, {allowed})")
    if not 0.0 <= value < high:
        raise ValueError(f"Invalid {what}: {value} (allowed: {allowed})")
    return value if isinstance(value, Tensor) else float(value)


def refuse_near_misses(group: dict[str, Any], options: dict[str, Any]) -> None:
    """Refuse a key that looks like a misspelt option. Other programs may use any other key.

    Raises:
        ValueError: A key looks like a misspelt option.
    """
    for key in group.keys() - options.keys() - {"params"}:
        # A key such as no_weight_decay, which contains an option's whole name, may be meant as it
        # is, so it must be even more similar to an option to be refused.
        about = any(f"_{option}_" in f"_{key}_" for option in options)
        near = difflib.get_close_matches(str(key), options, n=1, cutoff=0.9 if about else 0.8)
        if near:
            raise ValueError(
                f"Unknown key in param group: {key} (did you mean {near[0]}? Other keys that are "
                f"none of LaProp's options are kept and ignored: {', '.join(options)})"
            )


def warn_of_decay(group: dict[str, Any]) -> None:
    """Warn if the weight decay shrinks the weights by more than a thousandth in each step."""
    share, lr = group["weight_decay"], group["lr"]
    if group["decay_by_lr"]:
        if isinstance(lr, Tensor) and lr.device.type != "cpu":
            return  # reading it would wait for the device
        share *= float(lr)
    if share > 1e-3:
        cause = (
            f"lr={float(lr):g} times weight_decay={group['weight_decay']:g}"
            if group["decay_by_lr"]
            else f"weight_decay={group['weight_decay']:g}, which does not scale with lr (give a "
            "value meant for AdamW together with decay_by_lr=True),"
        )
        warnings.warn(
            f"{cause} takes {share:.2g} of the weights in every step; without gradients they "
            f"halve in {max(1, round(math.log(0.5) / math.log1p(-min(share, 0.999999))))} steps",
            stacklevel=5,
        )
