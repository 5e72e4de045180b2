"""The CPU kernel of :class:`laprop.LaProp`: one pass over memory for a whole param group.

The kernel is ``cpu.cpp``, built with the package where there is a compiler. This module finds it,
decides which param groups it can take, and keeps their table of addresses from step to step.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Callable, Iterable
from itertools import chain, pairwise
from operator import attrgetter, is_
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["Plan", "Unsuited", "available", "suits"]

_AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_avg_grad", "master_param")
_SCALARS = ("step", "exp_avg_weight", "exp_avg_sq_weight")
_FLAGS = ("amsgrad", "centered", "decay_by_lr", "eps_in_sqrt", "lr_weighted_correction", "maximize")
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_LOW_PRECISION = _DTYPES[2:]

_grad, _dtype = attrgetter("grad"), attrgetter("dtype")
_values: Callable[[dict[str, Any]], Iterable[Any]] = dict.values


class _Row(ctypes.Structure):
    """``Row`` in cpu.cpp: the tensors of one parameter."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("param", *_AVERAGES, *_SCALARS)),
        ("first", ctypes.c_int64),
        ("numel", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("wide_step", ctypes.c_int32),
        ("scratch", ctypes.c_int64 * 10),
    )


@functools.cache
def _kernel() -> Callable[..., int] | None:
    """Return ``laprop_step`` of cpu.cpp on torch's threads, or None where it was not built."""
    built = importlib.util.find_spec("laprop.kernels._cpu")
    if built is None or built.origin is None:
        return None
    step = ctypes.CDLL(built.origin).laprop_step
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
    return _kernel() is not None


def suits(group: dict[str, Any]) -> bool:
    """Return whether the kernel may take a param group: a first look, for the price of nothing."""
    first = next((param for param in group["params"] if param.grad is not None), None)
    return first is not None and first.device.type == "cpu" and available()


class Unsuited(Exception):
    """The kernel cannot take a param group, for the reason given."""


class Plan:
    """A param group as the kernel takes it: a table of addresses, used for as long as they hold.

    Args:
        group: A param group of :class:`laprop.LaProp` in which something has a gradient.
        state: The optimizer's state, complete for all parameters that have a gradient.

    Raises:
        Unsuited: The kernel was not built; a tensor is of a subclass, or not on the CPU, or not
            dense; a gradient is not laid out as its parameter; parameters overlap in memory; or
            the parameters are complex, or of 16 bits and rounded at random.
    """

    def __init__(self, group: dict[str, Any], state: dict[Tensor, dict[str, Any]]) -> None:
        kernel = _kernel()
        if kernel is None:
            raise Unsuited("the kernel was not built")
        self._kernel = kernel
        self._options = _options(group)
        self._group_params = list(group["params"])
        self._has_grad = [param.grad is not None for param in self._group_params]
        self._params: list[Tensor] = [p for p in self._group_params if p.grad is not None]
        for param in self._params:
            _check_parameter(param, group["low_precision"])

        masters = [
            group["low_precision"] == "master" and param.dtype in _LOW_PRECISION
            for param in self._params
        ]
        averages = ["exp_avg", "exp_avg_sq"]
        averages += ["max_exp_avg_sq"] * group["amsgrad"] + ["exp_avg_grad"] * group["centered"]
        self._states = [state[param] for param in self._params]

        self._rows = (_Row * len(self._params))()
        first = 0
        for row, param, entries, master in zip(
            self._rows, self._params, self._states, masters, strict=True
        ):
            for key in (*averages, *["master_param"] * master):
                _check_like(entries[key], param, key)
                setattr(row, key, entries[key].data_ptr())
            for key in _SCALARS:
                _check_scalar(entries[key], key)
                setattr(row, key, entries[key].data_ptr())
            row.param = param.data_ptr()
            row.dtype = _DTYPES.index(param.dtype)
            row.wide_step = entries["step"].dtype == torch.float64
            row.first, row.numel = first, param.numel()
            first += row.numel
        spans = sorted((p.data_ptr(), p.data_ptr() + p.nbytes) for p in self._params if p.numel())
        if any(end > begin for (_, end), (begin, _) in pairwise(spans)):
            raise Unsuited("parameters overlap in memory")

        grads = [param.grad for param in self._params if param.grad is not None]
        for param, grad in zip(self._params, grads, strict=True):
            if grad.dtype != param.dtype or _strides(grad) != _strides(param):
                raise Unsuited("a gradient is not laid out as its parameter")
        if not all(type(grad) is Tensor and not grad.is_neg() for grad in grads):
            raise Unsuited("a gradient is not a plain tensor")
        self._small = [i for i, grad in enumerate(grads) if grad.numel() == 1]
        self._layout = self._look(grads)
        try:
            self._addresses = self._find()
        except (TypeError, RuntimeError) as error:
            raise Unsuited("the state holds more than tensors") from error
        self._grads = (ctypes.c_void_p * len(grads))(*map(Tensor.data_ptr, grads))

    def _find(self) -> list[int]:
        """Return the addresses of parameters and state."""
        entries = chain.from_iterable(map(_values, self._states))
        return [*map(Tensor.data_ptr, chain(self._params, entries))]

    def _look(self, grads: list[Tensor]) -> tuple[Any, ...]:
        """Return what must be as it was for a gradient's address to be enough, in little time."""
        return (
            {*map(type, grads)},
            [*map(_dtype, grads)],
            [*map(Tensor.numel, grads)],
            [*map(Tensor.stride, grads)],
            # The imaginary part of a conjugate: not dense, where there is more than one of it.
            [grads[i].is_neg() for i in self._small],
        )

    def fits(self, group: dict[str, Any], state: dict[Tensor, dict[str, Any]]) -> bool:
        """Take over the present gradients; return False where anything else is not as it was."""
        grads = [*map(_grad, group["params"])]
        if (
            _options(group) != self._options
            or len(grads) != len(self._group_params)
            or not all(map(is_, group["params"], self._group_params))
            or [grad is not None for grad in grads] != self._has_grad
            or not all(map(is_, map(state.get, self._params), self._states))
        ):
            return False
        if len(self._params) < len(grads):
            grads = [grad for grad in grads if grad is not None]
        try:
            if self._look(grads) != self._layout or self._find() != self._addresses:
                return False
            self._grads[:] = [*map(Tensor.data_ptr, grads)]
        except (TypeError, RuntimeError):  # no tensor, or a tensor without memory
            return False
        return True

    def step(self, group: dict[str, Any]) -> bool:
        """Make one step with the group's present options; return False where nothing was done."""
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
            sum(group[key] << bit for bit, key in enumerate(_FLAGS)),
        )
        if undone:
            return False
        # As an in-place operation does, for autograd to notice a weight changed before backward.
        torch.autograd.graph.increment_version(self._params)
        return True


def _options(group: dict[str, Any]) -> tuple[Any, ...]:
    """Return the options on which it depends what there is in the state."""
    return group["amsgrad"], group["centered"], group["low_precision"]


def _strides(tensor: Tensor) -> list[tuple[int, int]]:
    """Return sizes and strides, without the dimensions of size 1, whose stride says nothing."""
    if tensor.layout != torch.strided:
        raise Unsuited(f"a tensor is {tensor.layout}")
    return [(n, s) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n != 1]


def _check_parameter(param: Tensor, low_precision: str) -> None:
    if type(param) not in (Tensor, Parameter) or param.device.type != "cpu":
        raise Unsuited(f"a parameter is a {type(param).__name__} on {param.device}")
    if param.dtype not in _DTYPES:
        raise Unsuited(f"a parameter is {param.dtype}")
    if param.dtype in _LOW_PRECISION and low_precision == "stochastic":
        raise Unsuited("16-bit parameters are rounded at random")
    # Of all tensors, empty_like keeps the strides of those that fill a piece of memory.
    if _strides(torch.empty_like(param, device="meta")) != _strides(param):
        raise Unsuited("a parameter is not dense")


def _check_like(entry: Any, param: Tensor, key: str) -> None:
    dtype = torch.float32 if param.dtype in _LOW_PRECISION else param.dtype
    if type(entry) is not Tensor or entry.dtype != dtype or entry.device.type != "cpu":
        raise Unsuited(f"{key} is not a plain tensor on the CPU of {dtype}")
    if _strides(entry) != _strides(param):
        raise Unsuited(f"{key} is not laid out as its parameter")


def _check_scalar(entry: Any, key: str) -> None:
    dtypes = (torch.float32, torch.float64) if key == "step" else (torch.float64,)
    if type(entry) is not Tensor or entry.dtype not in dtypes or entry.numel() != 1:
        raise Unsuited(f"{key} is not a plain scalar of {dtypes}")
    if entry.device.type != "cpu":
        raise Unsuited(f"{key} is on {entry.device}")
