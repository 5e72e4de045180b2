"""The CPU kernel of :class:`laprop.LaProp`: one pass over memory for a whole param group.

The kernel is ``cpu.cpp``, built with the package where there is a compiler. This module finds it
and keeps the table of addresses that it works through.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from operator import itemgetter, mul
from typing import Any, cast

import torch
from torch import Tensor

from laprop.kernels import plan
from laprop.kernels.watch import library

__all__ = ["CpuPlan", "available", "kernel"]

# The bits of Flag in cpu.cpp.
_flags = itemgetter(
    *("amsgrad", "centered", "decay_by_lr", "eps_in_sqrt", "lr_weighted_correction", "maximize")
)
_BITS = (1, 2, 4, 8, 16, 32)


class _Row(ctypes.Structure):
    """``Row`` in cpu.cpp: the tensors of one parameter."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("param", *plan.AVERAGES, *plan.SCALARS)),
        ("first", ctypes.c_int64),
        ("numel", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("wide_step", ctypes.c_int32),
        ("scratch", ctypes.c_int64 * 10),
    )


@functools.cache
def _library() -> Callable[..., int] | None:
    """Return ``laprop_step`` of cpu.cpp on torch's threads, or None where it was not built."""
    file = library()
    if file is None:
        return None
    step = ctypes.CDLL(file).laprop_step
    step.argtypes = (
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64),
        *(ctypes.c_double,) * 5,
        *(ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p),
    )
    step.restype = ctypes.c_int32
    # A handle of torch's extension module sees the libraries that it is linked to.
    parallel_for = ctypes.CDLL(torch._C.__file__).torch_parallel_for
    address = ctypes.cast(parallel_for, ctypes.c_void_p)
    return lambda *arguments: cast(int, step(*arguments, address))


def available() -> bool:
    """Return whether the kernel was built with the package."""
    return _library() is not None


def kernel() -> type[plan.Plan] | None:
    """Return the plan, None where the kernel was not built."""
    return CpuPlan if available() else None


class CpuPlan(plan.Plan):
    """A param group on the CPU, as cpu.cpp takes it."""

    def _lay_out(self) -> None:
        kernel = _library()
        if kernel is None:
            raise plan.Unsuited("the kernel was not built")
        self._kernel = kernel
        self._rows = (_Row * len(self._params))()
        first = 0
        for row, param, entries, averages in zip(
            self._rows, self._params, self._states, self._averages, strict=True
        ):
            for key in (*averages, *plan.SCALARS):
                setattr(row, key, entries[key].data_ptr())
            row.param = param.data_ptr()
            row.dtype = plan.DTYPES.index(param.dtype)
            row.wide_step = entries["step"].dtype == torch.float64
            row.first, row.numel = first, param.numel()
            first += row.numel

    def step(
        self,
        group: dict[str, Any],
        grad_scale: Tensor | None = None,
        found_inf: Tensor | None = None,
    ) -> bool:
        """Make one step with the group's present options; not where there is a scale."""
        if grad_scale is not None or found_inf is not None:
            return False
        beta1, beta2 = group["betas"]
        undone = self._kernel(
            self._rows,
            self._grads,
            len(self._rows),
            float(group["lr"]),
            float(beta1),
            float(beta2),
            group["eps"],
            group["weight_decay"],
            group["centered_warmup"],
            sum(map(mul, _flags(group), _BITS)),
        )
        if undone:
            return False
        # As an in-place operation does, for autograd to notice a weight changed before backward.
        torch.autograd.graph.increment_version(self._params)
        return True
