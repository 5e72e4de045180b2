"""Kernels that make a step of :class:`laprop.LaProp` in one pass over memory."""

from __future__ import annotations

import functools
import importlib

from laprop.kernels.rows import Batch, Kernel, batches
from laprop.kernels.tensors import library

__all__ = ["Batch", "Kernel", "available", "batches", "kernel_for"]

# The kernel's module for each type of device, imported when a kernel for such a device is needed.
_MODULES = {"cpu": "laprop.kernels.cpu", "cuda": "laprop.kernels.cuda"}


def available() -> bool:
    """Return whether the C++ sources, which every kernel needs, were built with the package."""
    return library() is not None


@functools.cache
def kernel_for(device_type: str) -> Kernel | None:
    """Return the kernel for a type of device ("cpu", "cuda"), or None if there is none."""
    if device_type not in _MODULES or not available():
        return None
    try:
        module = importlib.import_module(_MODULES[device_type])
    except ImportError:  # no Triton
        return None
    kernel: Kernel = module.kernel()
    return kernel
