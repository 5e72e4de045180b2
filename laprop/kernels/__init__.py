"""Kernels that make a step of :class:`laprop.LaProp` in one pass over memory."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from laprop.kernels import native
from laprop.kernels.rows import DTYPES, Batch, Kernel, batches, fits_state_dtype
from laprop.options import warn

__all__ = ["Batch", "Kernel", "available", "batches", "kernel_for", "why_not"]

# The kernel's module for each type of device, imported when a kernel for such a device is needed.
_MODULES = {"cpu": "laprop.kernels.cpu", "cuda": "laprop.kernels.cuda"}


def available() -> bool:
    """Return whether the library of the C++ files, which every kernel needs, can be used."""
    return native.library() is not None


@functools.cache
def kernel_for(device_type: str, *, asked_for: bool = False) -> Kernel | None:
    """Return the kernel for a type of device ("cpu", "cuda"), or None if there is none.

    Args:
        device_type: The type of device.
        asked_for: Whether the user asked for the kernel. If so, a warning says once what is missing
            on this computer.
    """
    if device_type not in _MODULES:
        return None
    if not available():
        if asked_for and native.path() is None:  # else native.library() has given a warning
            _warn_of_missing("the C++ library was not built: install laprop with a C++ compiler")
        return None
    try:
        module = importlib.import_module(_MODULES[device_type])
    except ImportError as error:
        if asked_for:
            _warn_of_missing(f"Triton cannot be imported ({error})")
        return None
    kernel: Kernel = module.KERNEL
    return kernel


def why_not(param: Tensor, group: dict[str, Any]) -> str | None:
    """Return why no kernel made the step of a parameter, or None if a warning has said it before.

    Args:
        param: The parameter.
        group: Its options, with ``fused=True``.
    """
    kernel, dtype = kernel_for(param.device.type), str(param.dtype).removeprefix("torch.")
    if kernel is None:
        is_told = param.device.type in _MODULES
        return None if is_told else f"there is none for the device type {param.device.type}"
    if not kernel.runs_on(param.device):
        return "it needs a GPU of compute capability 7.0 or more"
    if param.dtype not in DTYPES:
        return f"it takes no parameters of dtype {dtype}"
    if not kernel.takes(param.dtype, group):
        if not fits_state_dtype(param.dtype, group):
            return "it does not combine state_dtype with cautious"
        return f"it does not combine low_precision='stochastic' with {dtype} on this device"
    name = type(param).__name__
    if name == "DTensor":
        return "it takes a DTensor without agc and cautious, and if all its state is placed alike"
    if type(param) not in (Tensor, Parameter):
        return f"it takes no parameters of the class {name}"
    return (
        "a parameter, its gradient or its state has gaps in memory or another layout or dtype than "
        "it takes, or shares memory with another parameter, or GradScaler left the scaling to the "
        "step"
    )


def _warn_of_missing(what: str) -> None:
    warn(f"LaProp(fused=True) makes its steps without a kernel, because {what}")
