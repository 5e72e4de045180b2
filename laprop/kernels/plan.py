"""What the kernels have in common: which param groups they take, and for how long a plan holds."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from itertools import chain, pairwise
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from laprop.kernels.watch import Watch

__all__ = ["AVERAGES", "DTYPES", "LOW_PRECISION", "SCALARS", "Plan", "Unsuited", "state_dtype"]

AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_avg_grad", "master_param")
SCALARS = ("step", "exp_avg_weight", "exp_avg_sq_weight")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # cpu.cpp has this order
LOW_PRECISION = DTYPES[2:]

_grad, _dtype = attrgetter("grad"), attrgetter("dtype")
_values: Callable[[dict[str, Any]], Iterable[Any]] = dict.values


def state_dtype(param: Tensor) -> torch.dtype:
    """Return the dtype in which a parameter's arithmetic is done and its averages are kept."""
    return torch.float32 if param.dtype in LOW_PRECISION else param.dtype


class Unsuited(Exception):
    """The kernel cannot take a param group, for the reason given."""


class Plan:
    """A param group as a kernel takes it: a table of addresses, used for as long as they hold.

    A subclass copies the addresses to where its kernel reads them (:meth:`_lay_out`), and makes the
    step with the gradients that :meth:`fits` finds.

    Args:
        group: A param group of :class:`laprop.LaProp` in which something has a gradient.
        state: The optimizer's state, complete for all parameters that have a gradient.

    Raises:
        Unsuited: A tensor is of a subclass, or not on the device of the first, or not dense; a
            gradient is not laid out as its parameter; parameters overlap in memory; or the
            parameters are complex, or of 16 bits and rounded at random.
    """

    scalars_on_device = False
    """Whether the kernel wants the state's scalars on the device of the parameters."""

    def __init__(self, group: dict[str, Any], state: dict[Tensor, dict[str, Any]]) -> None:
        self._options = _options(group)
        self._group_params = list(group["params"])
        self._has_grad = [param.grad is not None for param in self._group_params]
        self._params: list[Tensor] = [p for p in self._group_params if p.grad is not None]
        self._device = self._params[0].device
        for param in self._params:
            _check_parameter(param, group["low_precision"], self._device)
        scalar_device = self._device if self.scalars_on_device else torch.device("cpu")
        self._states = [state[param] for param in self._params]
        self._averages = [_averages(param, group) for param in self._params]
        for param, entries, keys in zip(self._params, self._states, self._averages, strict=True):
            for key in keys:
                _check_like(entries[key], param, key)
            for key in SCALARS:
                _check_scalar(entries[key], key, scalar_device)
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
        self._grads: Any = (ctypes.c_void_p * len(grads))(*map(Tensor.data_ptr, grads))
        try:
            self._watch: Watch | None = Watch(self._group_params, state)
        except LookupError:
            self._watch = None
        self._lay_out()

    def _lay_out(self) -> None:
        """Copy the addresses of parameters and state."""
        raise NotImplementedError

    def step(
        self,
        group: dict[str, Any],
        grad_scale: Tensor | None = None,
        found_inf: Tensor | None = None,
    ) -> bool:
        """Make one step with the group's present options.

        Args:
            group: The group.
            grad_scale: The gradients are this number, one float32, times what they should be.
            found_inf: One float32; where it is not 0 nothing is changed.

        Returns:
            False where nothing was done.
        """
        raise NotImplementedError

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
        if _options(group) != self._options:
            return False
        if self._watch is None:
            return self._unchanged(group["params"], state)
        return self._watch.unchanged(group["params"], state, self._grads) and not any(
            grad.is_neg() for i in self._small if (grad := self._params[i].grad) is not None
        )

    def _unchanged(self, params: list[Tensor], state: dict[Tensor, dict[str, Any]]) -> bool:
        """Do what :class:`Watch` does."""
        grads = [*map(_grad, params)]
        if (
            len(grads) != len(self._group_params)
            or not all(map(is_, params, self._group_params))
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


# The options on which it depends what there is in the state, and whether a kernel may be used.
_options = itemgetter(
    *("amsgrad", "centered", "low_precision"),
    *("capturable", "differentiable", "foreach", "fused"),
)


def _averages(param: Tensor, group: dict[str, Any]) -> list[str]:
    """Return the keys of what there is in a parameter's state besides scalars."""
    master = param.dtype in LOW_PRECISION and group["low_precision"] == "master"
    used = (True, True, group["amsgrad"], group["centered"], master)
    return [key for key, is_used in zip(AVERAGES, used, strict=True) if is_used]


def _strides(tensor: Tensor) -> list[tuple[int, int]]:
    """Return sizes and strides, without the dimensions of size 1, whose stride says nothing."""
    if tensor.layout != torch.strided:
        raise Unsuited(f"a tensor is {tensor.layout}")
    return [(n, s) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n != 1]


def _check_parameter(param: Tensor, low_precision: str, device: torch.device) -> None:
    if type(param) not in (Tensor, Parameter) or param.device != device:
        raise Unsuited(f"a parameter is a {type(param).__name__} on {param.device}")
    if param.dtype not in DTYPES:
        raise Unsuited(f"a parameter is {param.dtype}")
    if param.dtype in LOW_PRECISION and low_precision == "stochastic":
        raise Unsuited("16-bit parameters are rounded at random")
    # Of all tensors, empty_like keeps the strides of those that fill a piece of memory.
    if _strides(torch.empty_like(param, device="meta")) != _strides(param):
        raise Unsuited("a parameter is not dense")


def _check_like(entry: Any, param: Tensor, key: str) -> None:
    dtype = state_dtype(param)
    if type(entry) is not Tensor or entry.dtype != dtype or entry.device != param.device:
        raise Unsuited(f"{key} is not a plain tensor on {param.device} of {dtype}")
    if _strides(entry) != _strides(param):
        raise Unsuited(f"{key} is not laid out as its parameter")


def _check_scalar(entry: Any, key: str, device: torch.device) -> None:
    dtypes = (torch.float32, torch.float64) if key == "step" else (torch.float64,)
    if type(entry) is not Tensor or entry.dtype not in dtypes or entry.numel() != 1:
        raise Unsuited(f"{key} is not a plain scalar of {dtypes}")
    if entry.device != device:
        raise Unsuited(f"{key} is on {entry.device}")
