"""The state of a parameter in :class:`laprop.LaProp`: made, checked, and loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, StateDict

from laprop.kernels import Kernel, kernel_for
from laprop.kernels.rows import DTYPES, LOW_PRECISION, SCALARS, averages_of, state_dtype

__all__ = ["Kept", "check_dtype", "complete", "keep", "kernel_of", "placed", "row_keys"]

_DTYPES = (*DTYPES, torch.complex64, torch.complex128)
# The weight of an average is the same average of the number 1, or of lr.
_WEIGHTS = {"exp_avg": "exp_avg_weight", "exp_avg_sq": "exp_avg_sq_weight"}


@dataclass
class Kept:
    """A parameter's state on its way through Optimizer.load_state_dict, which casts dicts."""

    state: dict[str, Any]


def kernel_of(param: Tensor, group: dict[str, Any]) -> Kernel | None:
    """Return the kernel that a group's options ask for where the parameter is, None without one."""
    fused = group["fused"]
    if fused is None:
        fused = group["foreach"] is None and param.device.type == "cpu"
    if not fused or group["differentiable"]:
        return None
    kernel = kernel_for(param.device.type)
    if kernel is None or (group["capturable"] and not kernel.scalars_on_device):
        return None
    return kernel


def row_keys(dtype: torch.dtype, group: dict[str, Any]) -> tuple[str, ...]:
    """Return what a step needs of a parameter of a dtype, in the order of a row."""
    return ("param", "grad", *averages_of(dtype, group), *SCALARS)


def complete(param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Add to a parameter's state what the group's options need, and check what is there.

    Entries are looked for one by one, since an option may have been switched on after some steps.

    Raises:
        TypeError: The parameter's dtype is none that can be optimized.
        RuntimeError: The gradient is sparse or of another dtype than the parameter, or a tensor has
            another shape.
        ValueError: An entry is no tensor, or an average has no weight.
    """
    shape = tuple(param.shape)
    check_dtype(param, group)
    if grad.layout != torch.strided:
        raise RuntimeError(
            f"LaProp does not support sparse gradients: the gradient of a parameter of shape "
            f"{shape} is sparse (use sparse=False in its layer)"
        )
    keys = averages_of(param.dtype, group)
    for key in (*keys, *SCALARS):
        entry = state.get(key)
        if entry is not None and not isinstance(entry, Tensor):
            raise ValueError(
                f"state[{key!r}] of a parameter of shape {shape} is a {type(entry).__name__} "
                "(allowed: a tensor; give a state made elsewhere to load_state_dict)"
            )
        if key in _WEIGHTS and entry is not None and _WEIGHTS[key] not in state:
            raise ValueError(
                f"the state of a parameter of shape {shape} has {key} but not {_WEIGHTS[key]}, "
                "without which its bias cannot be corrected (give a state of Adam to "
                "load_state_dict)"
            )
        if key in SCALARS and entry is not None and entry.numel() != 1:
            raise ValueError(
                f"state[{key!r}] of a parameter of shape {shape} has {entry.numel()} elements "
                "(allowed: one)"
            )
    for key in keys:
        dtype = torch.float32 if key == "master_param" else state_dtype(param, group)
        if key in state:
            # Parameter or option had another dtype before. Results would depend on who computes.
            state[key] = state[key].to(dtype)
        elif key == "master_param":
            state[key] = param.detach().to(dtype, copy=True)
        else:
            state[key] = torch.zeros_like(
                param, dtype=dtype, memory_format=torch.preserve_format
            ).detach()
    on_device = _scalars_on_device(param, group)
    for key in SCALARS:
        if key not in state:
            state[key] = torch.zeros((), dtype=_scalar_dtype(key))
        # On the CPU, where reading it costs nothing, unless the step must not be read.
        # torch.compile moves step, and only step, to the device: the others follow it.
        state[key] = state[key].to(param.device if on_device else state["step"].device)
    if grad.dtype != param.dtype:
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


def check_dtype(param: Tensor, group: dict[str, Any]) -> None:
    """Refuse a parameter of a dtype that cannot be optimized.

    Raises:
        TypeError: It is such a parameter.
    """
    allowed = _DTYPES if group["state_dtype"] is None else (torch.float32, *LOW_PRECISION)
    if param.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        narrow = "" if group["state_dtype"] is None else f" with state_dtype={group['state_dtype']}"
        raise TypeError(
            f"LaProp cannot optimize a parameter of dtype {param.dtype}{narrow} (allowed: {names})"
        )


def _scalars_on_device(param: Tensor, group: dict[str, Any]) -> bool:
    """Return whether step and the sums of weights are kept where the parameter is."""
    if group["capturable"]:
        return True
    kernel = kernel_of(param, group) if group["fused"] else None
    return kernel is not None and kernel.scalars_on_device


def _scalar_dtype(key: str) -> torch.dtype:
    # float64, since it is the weights' complement 1 - c that decays over thousands of steps.
    if key != "step":
        return torch.float64
    return torch.promote_types(torch.float32, torch.get_default_dtype())


# --- loading --------------------------------------------------------------------------------------


def placed(key: str, value: Any, param: Tensor, group: dict[str, Any]) -> Any:
    """Return a copy of a loaded value with the dtype and on the device that the step expects."""
    if key in SCALARS:
        device = param.device if _scalars_on_device(param, group) else torch.device("cpu")
        scalar = torch.as_tensor(value, dtype=_scalar_dtype(key))
        return scalar.detach().to(device=device, dtype=_scalar_dtype(key), copy=True)
    if isinstance(value, Tensor):
        dtype = torch.float32 if key == "master_param" else state_dtype(param, group)
        return value.detach().to(device=param.device, dtype=dtype, copy=True)
    return value


def keep(optimizer: Optimizer, state_dict: StateDict) -> StateDict:
    """Hook before loading: recognise whose state it is, and keep it from being cast."""
    adam = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    groups = state_dict["param_groups"]
    states: dict[Any, Any] = state_dict["state"]
    if all("lr_weighted_correction" in group for group in groups):
        kept = {k: Kept(v) if isinstance(v, dict) else v for k, v in states.items()}
        return {**state_dict, "state": kept}

    keys = {key for state in states.values() for key in state}
    if not all("betas" in group for group in groups) or (keys and not {"step"} < keys <= adam):
        raise ValueError(
            "LaProp cannot load this state_dict: its state is neither LaProp's nor Adam's, "
            f"it holds {', '.join(sorted(map(str, keys))) or 'nothing'}"
        )
    kept = {}
    for group in groups:
        nu = float(group["betas"][1])
        for k in group["params"]:
            if k in states:
                state = {key: value for key, value in states[k].items() if key != "exp_avg"}
                # 1 - nu^t without the cancellation for nu near 1
                weight = -math.expm1(float(state["step"]) * math.log(nu)) if nu > 0 else 1.0
                kept[k] = Kept({**state, "exp_avg_sq_weight": weight})
    if len(groups) == len(optimizer.param_groups):  # otherwise the base class refuses it
        groups = [
            {**ours, "params": theirs["params"]}
            for ours, theirs in zip(optimizer.param_groups, groups, strict=True)
        ]
    return {**state_dict, "state": kept, "param_groups": groups}
