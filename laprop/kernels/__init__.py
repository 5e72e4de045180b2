"""Kernels that make a step of :class:`laprop.LaProp` in one pass over memory."""

from __future__ import annotations

import functools
import importlib

from laprop.kernels.rows import Batch, Kernel, batches

__all__ = ["Batch", "Kernel", "batches", "kernel_for"]

# By type of device; a module is imported when a parameter on such a device asks for it.
_MODULES = {"cpu": "laprop.kernels.cpu", "cuda": "laprop.kernels.cuda"}


@functools.cache
def kernel_for(device_type: str) -> Kernel | None:
    """Return the kernel for a type of device ("cpu", "cuda"), None without one."""
    if device_type not in _MODULES:
        return None
    try:
        module = importlib.import_module(_MODULES[device_type])
    except ImportError:  # no Triton
        return None
    kernel: Kernel | None = module.kernel()
    return kernel
