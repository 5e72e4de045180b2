"""How :class:`laprop.LaProp` makes, checks and loads the state of a parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, StateDict

from laprop.kernels import Kernel, kernel_for
from laprop.kernels.rows import (
    AVERAGES,
    DTYPES,
    LOW_PRECISION,
    SCALARS,
    averages_of,
    state_dtype,
)
from laprop.options import check_average, checked_group, momentum_of

__all__ = ["Uncast", "check_dtype", "complete", "kernel_of", "row_keys", "widest", "wrap_states"]

_DTYPES = (*DTYPES, torch.complex64, torch.complex128)
_STEP_DTYPES = (torch.float32, torch.float64)
# Types of devices that have no float64.
_NARROW_DEVICES = ("mps",)
_scalars = itemgetter(*SCALARS)
# Each average and the entry that corrects its bias: the same average of the number 1, or of lr.
_WEIGHTS = {"exp_avg": "exp_avg_weight", "exp_avg_sq": "exp_avg_sq_weight"}


@dataclass
class Uncast:
    """A parameter's state, wrapped so that Optimizer.load_state_dict does not cast it.

    torch casts the tensors of a dict to the parameter's dtype: float32 averages to 16 bits.
    """

    state: dict[str, Any]


def kernel_of(param: Tensor, group: dict[str, Any]) -> Kernel | None:
    """Return the kernel that a group's options ask for on the parameter's device, or None."""
    fused, device_type = group["fused"], param.device.type
    if fused is None:
        fused = group["foreach"] is None and device_type == "cpu"
    if not fused or group["differentiable"]:
        return None
    kernel = kernel_for(device_type, asked_for=bool(group["fused"]))
    if kernel is None or (group["capturable"] and not kernel.scalars_on_device):
        return None
    return kernel


def widest(device: torch.device) -> torch.dtype:
    """Return the dtype of scalars on a device: float64, or float32 where there is no float64."""
    return torch.float32 if device.type in _NARROW_DEVICES else torch.float64


def row_keys(dtype: torch.dtype, group: dict[str, Any]) -> tuple[str, ...]:
    """Return the keys of the tensors that a step needs of a parameter, in the order of a row."""
    return ("param", "grad", *averages_of(dtype, group), *SCALARS)


def complete(
    param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
) -> tuple[str, ...]:
    """Add to a parameter's state what the group's options need, and check what is there.

    Each entry is looked for, since an option may have been switched on after some steps.

    Returns:
        The keys of the entries that a step needs, in the order of :func:`row_keys`.

    Raises:
        TypeError: A parameter of this dtype cannot be optimized.
        ValueError: A parameter of this dtype cannot be optimized with the group's options, an entry
            is not a tensor, a scalar has more than one element, or an average lacks the entry that
            corrects its bias.
        RuntimeError: The gradient is sparse or of another dtype than the parameter (float32 is
            allowed for one of 16 bits), or a tensor has another shape than the parameter.
    """
    check_dtype(param, group)
    if grad.layout != torch.strided:
        raise RuntimeError(
            f"LaProp does not support sparse gradients: that of a parameter of shape "
            f"{tuple(param.shape)} has the layout {grad.layout}"
            + (" (use sparse=False in its layer)" if grad.layout == torch.sparse_coo else "")
        )
    if not group["centered"]:
        state.pop("exp_avg_grad", None)  # it would be out of date when centered is switched on
    keys = averages_of(param.dtype, group)
    on_device = _scalars_on_device(param, group)
    if _is_complete(param, grad, state, group, keys, on_device):
        return (*keys, *SCALARS)
    shape = tuple(param.shape)
    for key in (*keys, *SCALARS):
        if key not in state:
            continue
        entry = state[key]
        if not isinstance(entry, Tensor):
            raise ValueError(
                f"state[{key!r}] of a parameter of shape {shape} is a {type(entry).__name__} "
                "(allowed: a tensor; give a state made elsewhere to load_state_dict)"
            )
        if key in _WEIGHTS and _WEIGHTS[key] not in state:
            raise ValueError(
                f"the state of a parameter of shape {shape} has {key} but not {_WEIGHTS[key]}, "
                "without which its bias cannot be corrected (give a state of Adam to "
                "load_state_dict)"
            )
        if key in SCALARS and entry.numel() != 1:
            raise ValueError(
                f"state[{key!r}] of a parameter of shape {shape} has {entry.numel()} elements "
                "(allowed: one)"
            )
    for key in keys:
        dtype = torch.float32 if key == "master_param" else state_dtype(param, group)
        if key in state:
            # The parameter or the option had another dtype before. Without a cast the result would
            # depend on which implementation makes the step.
            state[key] = state[key].to(dtype)
        elif key == "master_param":
            state[key] = param.detach().to(dtype, copy=True)
        else:
            state[key] = torch.zeros_like(
                param, dtype=dtype, memory_format=torch.preserve_format
            ).detach()
    for key in SCALARS:
        if key not in state:
            # torch.tensor, as in torch's optimizers: under a FakeTensorMode only what it makes has
            # a value that can be read.
            state[key] = torch.tensor(0.0, dtype=_scalar_dtype(key), device="cpu")
        # Scalars are on the CPU, where reading them is free, unless the step must not read them.
        # torch.compile moves `step`, and no other scalar, to the device, so the others follow it.
        device = param.device if on_device else state["step"].device
        dtype = state[key].dtype
        if key != "step":
            dtype = widest(device)
        elif dtype not in _STEP_DTYPES:
            dtype = _scalar_dtype(key)
        state[key] = state[key].to(device, dtype).reshape(())
    if not _has_its_dtype(grad, param):
        raise RuntimeError(
            f"a parameter of shape {shape} is {param.dtype} and its gradient {grad.dtype}: after a "
            "change of dtype it needs a new gradient"
        )
    for name, tensor in (("its gradient", grad), *((f"state[{k!r}]", state[k]) for k in keys)):
        if tensor.shape != param.shape:
            raise RuntimeError(
                f"a parameter has shape {shape} and {name} {tuple(tensor.shape)}: after a change "
                "of shape give it a new gradient and drop its state, optimizer.state.pop(param)"
            )
    return (*keys, *SCALARS)


def _is_complete(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Any],
    group: dict[str, Any],
    keys: tuple[str, ...],
    on_device: bool,
) -> bool:
    """Return whether a state is as :func:`complete` leaves it, which is so in nearly every step."""
    shape, averages = param.shape, state_dtype(param, group)
    try:
        for key in keys:
            entry = state[key]
            dtype = torch.float32 if key == "master_param" else averages
            if entry.dtype != dtype or entry.shape != shape:
                return False
        step, weight, sq_weight = _scalars(state)
        device = param.device if on_device else step.device
        return (
            grad.shape == shape
            and _has_its_dtype(grad, param)
            and step.dtype in _STEP_DTYPES
            and weight.dtype == sq_weight.dtype
            # A device without float64 cannot hold it, so there is no need to ask for its type.
            and (weight.dtype == torch.float64 or weight.dtype == widest(device))
            and step.device == weight.device == sq_weight.device == device
            and step.dim() == weight.dim() == sq_weight.dim() == 0
        )
    except (KeyError, AttributeError):  # an entry is missing, or is not a tensor
        return False


def _has_its_dtype(grad: Tensor, param: Tensor) -> bool:
    """Return whether a gradient's dtype is that of its parameter, or float32 for one of 16 bits.

    Torch gives float32 where ``param.grad_dtype`` is set so.
    """
    return grad.dtype == param.dtype or (
        grad.dtype == torch.float32 and param.dtype in LOW_PRECISION
    )


def check_dtype(param: Tensor, group: dict[str, Any]) -> None:
    """Check that a parameter of this dtype can be optimized.

    Raises:
        TypeError: It cannot; the message names the dtypes that can.
        ValueError: It cannot be with this ``low_precision``.
    """
    allowed = _DTYPES if group["state_dtype"] is None else (torch.float32, *LOW_PRECISION)
    if param.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        narrow = "" if group["state_dtype"] is None else f" with state_dtype={group['state_dtype']}"
        raise TypeError(
            f"LaProp cannot optimize a parameter of dtype {param.dtype}{narrow} (allowed: {names})"
        )
    if group["differentiable"] and param.dtype in LOW_PRECISION:
        kind = group["low_precision"]
        if kind != "nearest":
            raise ValueError(
                f"Invalid low_precision: {kind!r} with differentiable=True and a parameter of "
                f"dtype {param.dtype} (allowed: 'nearest', because derivatives do not pass through "
                "a master copy or rounding at random)"
            )


def _scalars_on_device(param: Tensor, group: dict[str, Any]) -> bool:
    """Return whether the scalars of the state are kept on the parameter's device."""
    if group["capturable"]:
        return True
    kernel = kernel_of(param, group) if group["fused"] else None
    return kernel is not None and kernel.scalars_on_device


def _scalar_dtype(key: str) -> torch.dtype:
    # float64, because a bias correction c comes close to 1 over thousands of steps, and float32
    # would lose the small difference 1 - c.
    if key != "step":
        return torch.float64
    return torch.promote_types(torch.float32, torch.get_default_dtype())


# --- loading --------------------------------------------------------------------------------------


def wrap_states(optimizer: Optimizer, state_dict: StateDict) -> StateDict:
    """Return a state_dict of any LaProp or Adam in our form.

    Each state is wrapped in :class:`Uncast`, so that torch does not cast it. This is a hook that
    torch calls before it loads a state_dict. Whatever can be refused is refused here, because torch
    has replaced the optimizer's state when it calls ``__setstate__``.

    Raises:
        ValueError: The state_dict is neither LaProp's nor Adam's, an entry of its state is of the
            wrong kind, an option is out of its range, or the momentum is an average of something
            else than the options say.
        TypeError: An option is of the wrong type, or does not allow a parameter's dtype.
        RuntimeError: Two options exclude each other.
    """
    groups = state_dict["param_groups"]
    states: dict[Any, Any] = state_dict["state"]
    if len(groups) != len(optimizer.param_groups):
        return state_dict  # the base class refuses it
    if all("lr_weighted_correction" in group for group in groups):
        groups = [{**group, **checked_group(group, optimizer.defaults)} for group in groups]
        for group in groups:
            check_average(group, [states.get(k, {}) for k in group["params"]])
    else:
        if any("exp_avg_lr_1" in state for state in states.values()):
            states = _of_authors(states, optimizer.param_groups)
        else:
            states = _of_adam(states, groups, optimizer.defaults)
        groups = [
            {**ours, "params": theirs["params"], "momentum_of": momentum_of(ours)}
            for ours, theirs in zip(optimizer.param_groups, groups, strict=True)
        ]
    kept = dict(states)
    for ours, theirs in zip(optimizer.param_groups, groups, strict=True):
        # The base class refuses another number of parameters.
        for param, k in zip(ours["params"], theirs["params"], strict=False):
            if param.requires_grad:
                check_dtype(param, theirs)
            if isinstance(states.get(k), dict):
                kept[k] = Uncast(_placed(states[k], param, theirs))
    return {**state_dict, "state": kept, "param_groups": groups}


def _of_adam(
    states: dict[Any, Any], groups: list[dict[str, Any]], defaults: dict[str, Any]
) -> dict[Any, Any]:
    """Return Adam's states in LaProp's form, without those that are empty.

    Raises:
        ValueError: They are not Adam's, or betas are out of their range.
        TypeError: betas are of the wrong type.
    """
    adam = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    states = {k: state for k, state in states.items() if state}
    if not all("betas" in group for group in groups) or not all(
        {"step", "exp_avg_sq"} <= state.keys() <= adam for state in states.values()
    ):
        raise _neither(states)
    ours = {}
    for group in groups:
        nu = float(checked_group({"betas": group["betas"]}, defaults)["betas"][1])
        for k in group["params"]:
            if k in states:
                state = {key: value for key, value in states[k].items() if key != "exp_avg"}
                steps = float(_scalar("step", state["step"]))
                # 1 - nu^t without the cancellation for nu near 1
                weight = -math.expm1(steps * math.log(nu)) if nu > 0 else 1.0
                ours[k] = {**state, "exp_avg_sq_weight": weight}
    return ours


def _of_authors(states: dict[Any, Any], groups: list[dict[str, Any]]) -> dict[Any, Any]:
    """Return states of the authors' LaProp, or timm's, in our form, without those that are empty.

    Their momentum is not divided by its bias correction, which is ``exp_avg_lr_1``.

    Args:
        states: The states.
        groups: The optimizer's own groups.

    Raises:
        ValueError: They are not of this form, or the optimizer's momentum is of another kind.
    """
    needed = {"step", "exp_avg", "exp_avg_sq", "exp_avg_lr_1", "exp_avg_lr_2"}
    # An earlier version of the authors' also makes exp_mean_avg_sq, but does not change it.
    allowed = needed | {"max_exp_avg_sq", "exp_mean_avg_sq", "exp_mean_avg_beta2"}
    states = {k: state for k, state in states.items() if state}
    if not all(needed <= state.keys() <= allowed for state in states.values()):
        raise _neither(states)
    if not all(group["lr_in_momentum"] and group["lr_weighted_correction"] for group in groups):
        raise ValueError(
            "LaProp cannot load this state_dict: a state of the authors' LaProp needs "
            "lr_in_momentum=True and lr_weighted_correction=True"
        )
    ours = {}
    for k, state in states.items():
        weight = float(_scalar("exp_avg_lr_1", state["exp_avg_lr_1"]))
        exp_avg = state["exp_avg"]
        if isinstance(exp_avg, Tensor):  # else it is refused below
            wide = torch.promote_types(exp_avg.dtype, torch.float32)
            exp_avg = exp_avg.to(wide) / (weight or 1.0)  # lr may have been 0 so far
        ours[k] = {
            **{key: state[key] for key in state.keys() & {"step", "exp_avg_sq", "max_exp_avg_sq"}},
            "exp_avg": exp_avg,
            "exp_avg_weight": weight,
            "exp_avg_sq_weight": state["exp_avg_lr_2"],
        }
        if "exp_mean_avg_beta2" in state:  # the mean gradient, if centered
            ours[k]["exp_avg_grad"] = state["exp_mean_avg_beta2"]
    return ours


def _neither(states: dict[Any, Any]) -> ValueError:
    """Return the error that says which keys the states hold."""
    keys = {key for state in states.values() for key in state}
    return ValueError(
        "LaProp cannot load this state_dict: its state is neither LaProp's nor Adam's, "
        f"it holds {', '.join(sorted(map(str, keys))) or 'nothing'}"
    )


def _placed(state: dict[str, Any], param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a loaded state: dtypes, devices and layout are those that a step expects.

    Raises:
        ValueError: An entry is of the wrong kind.
    """
    device = param.device if _scalars_on_device(param, group) else torch.device("cpu")
    result = {}
    for key, value in state.items():
        if key in SCALARS:
            result[key] = _scalar(key, value).to(device=device, copy=True)
        elif key == "master_param" and param.dtype not in LOW_PRECISION:
            continue  # a parameter of 32 bits has none
        elif key == "exp_avg_grad" and not group["centered"]:
            continue  # as in `complete`
        elif isinstance(value, Tensor):
            dtype = torch.float32 if key == "master_param" else state_dtype(param, group)
            copied = value.detach().to(device=param.device, dtype=dtype, copy=True)
            # A step refuses another shape. With another layout no kernel would take the parameter.
            if copied.shape == param.shape and copied.stride() != param.stride():
                copied = torch.empty_like(param, dtype=dtype).detach().copy_(copied)
            result[key] = copied
        elif key in AVERAGES:
            raise ValueError(
                f"LaProp cannot load this state_dict: state[{key!r}] is a {type(value).__name__} "
                "(allowed: a tensor)"
            )
        else:
            result[key] = value
    return result


def _scalar(key: str, value: Any) -> Tensor:
    """Return a loaded scalar as a tensor of its dtype on the CPU.

    Raises:
        ValueError: It is not one number, or it is negative or not finite.
    """
    try:
        scalar = torch.as_tensor(value, dtype=_scalar_dtype(key), device="cpu").detach()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        scalar = None
    if scalar is None or scalar.numel() != 1 or not 0 <= scalar < math.inf:
        array = isinstance(value, Tensor) and value.numel() != 1
        shown = f"of shape {tuple(value.shape)}" if array else repr(value)
        raise ValueError(
            f"LaProp cannot load this state_dict: state[{key!r}] is {shown} (allowed: one finite "
            "number >= 0)"
        )
    return scalar
