"""The CPU kernel of :class:`laprop.LaProp`: one pass over memory for all parameters of a dtype.

The kernel is ``cpu.cpp``. This module hands over the options and a table of addresses.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from laprop.kernels.native import Options, library
from laprop.kernels.rows import DTYPES, Batch, Kernel, fits_state_dtype

__all__ = ["KERNEL", "CpuKernel"]

# The bits of Flag in cpu.cpp that stand for an option of a group.
_BITS = {
    "amsgrad": 1,
    "centered": 2,
    "decay_by_lr": 4,
    "eps_in_sqrt": 8,
    "lr_weighted_correction": 16,
    "maximize": 32,
    "lr_in_momentum": 64,
    "cautious": 128,
}
_WIDE_STEP, _NARROW_STATE, _STOCHASTIC = 256, 512, 1024  # the other bits


@functools.cache
def _function() -> Callable[..., int]:
    """Return ``laprop_step`` of cpu.cpp on torch's threads."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, number, pointer, pointer)
    step = function(("laprop_step", cast(ctypes.CDLL, library())))
    # A handle of torch's extension module also finds symbols of the libraries that it is linked
    # with. torch_parallel_for is in torch's stable C interface. With a torch that is too old to
    # have it, the step runs on one thread.
    parallel_for = getattr(ctypes.CDLL(torch._C.__file__), "torch_parallel_for", None)
    address = None if parallel_for is None else ctypes.cast(parallel_for, ctypes.c_void_p)
    return lambda *arguments: cast(int, step(*arguments, address))


class CpuKernel:
    """The kernel for tensors on the CPU; see :class:`laprop.kernels.rows.Kernel`."""

    scalars_on_device = False

    def takes(self, dtype: torch.dtype, group: dict[str, Any]) -> bool:
        """Return whether cpu.cpp has code for parameters of a dtype under a group's options."""
        if dtype not in DTYPES or not fits_state_dtype(dtype, group):
            return False
        return dtype != torch.float16 or group["low_precision"] != "stochastic"

    def runs_on(self, device: torch.device) -> bool:
        """Return True: every CPU on which the library loads can run it."""
        return True

    def step(
        self,
        batch: Batch,
        group: dict[str, Any],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
    ) -> bool:
        """Make one step, if possible; see :meth:`laprop.kernels.rows.Kernel.step`.

        It does nothing, and returns False, where GradScaler gives a scale or cpu.cpp cannot take
        the tensors.
        """
        if grad_scale is not None or found_inf is not None:
            return False
        state = batch.state
        stochastic = batch.dtype == torch.bfloat16 and group["low_precision"] == "stochastic"
        narrow_state = group["state_dtype"] is not None
        flags = sum(bit for option, bit in _BITS.items() if group[option])
        if state["step"][0].dtype == torch.float64:
            flags += _WIDE_STEP
        if narrow_state:
            flags += _NARROW_STATE
        if stochastic:
            flags += _STOCHASTIC
        mu, nu = group["betas"]
        options = Options(
            *(float(group["lr"]), float(mu), float(nu), group["eps"], group["weight_decay"]),
            *(group["agc"] or 0.0, group["centered_warmup"]),
            int(torch.randint(2**62, (), device="cpu")) if narrow_state or stochastic else 0,
            *(DTYPES.index(batch.dtype), flags),
        )
        # Every in-place operation of torch does this, so that autograd notices if a weight that it
        # saved was changed before its backward pass.
        torch.autograd.graph.increment_version(batch.params)
        table, count = batch.table.buffer_info()[0], len(batch.params)
        code = _function()(table, count, ctypes.byref(options))
        if code == 3:
            raise RuntimeError("torch's threads failed during a step, which is only partly done")
        return code == 0


KERNEL: Kernel = CpuKernel()
