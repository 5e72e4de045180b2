"""Kernels that make a step of :class:`laprop.LaProp` in one pass over memory."""

from __future__ import annotations

import functools
import importlib
import warnings

from laprop.kernels import native
from laprop.kernels.rows import Batch, Kernel, batches

__all__ = ["Batch", "Kernel", "available", "batches", "kernel_for"]

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


def _warn_of_missing(what: str) -> None:
    message = f"LaProp(fused=True) makes its steps without a kernel, because {what}"
    warnings.warn(message, UserWarning, stacklevel=3)
