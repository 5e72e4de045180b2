"""What the kernels have in common: which parameters of a group they take, and in which form.

Nothing is kept from one step to the next. Each step asks torch for the type, dtype, device, sizes,
strides and address of every tensor that the kernel is to touch. A kernel therefore never relies on
how a tensor was at an earlier step, and no tensor is held longer than the optimizer holds it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = [
    "AVERAGES",
    "DTYPES",
    "LOW_PRECISION",
    "SCALARS",
    "Batch",
    "Kernel",
    "averages_of",
    "batches",
    "state_dtype",
]

AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_avg_grad", "master_param")
SCALARS = ("step", "exp_avg_weight", "exp_avg_sq_weight")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # cpu.cpp has this order
LOW_PRECISION = DTYPES[2:]

_dtype, _shape = attrgetter("dtype"), attrgetter("shape")


def state_dtype(param: Tensor, group: dict[str, Any]) -> torch.dtype:
    """Return the dtype in which a parameter's averages are kept."""
    if group["state_dtype"] is not None:
        chosen: torch.dtype = group["state_dtype"]
        return chosen
    return torch.float32 if param.dtype in LOW_PRECISION else param.dtype


def averages_of(dtype: torch.dtype, group: dict[str, Any]) -> tuple[str, ...]:
    """Return the keys of the tensors in the state of a parameter of this dtype."""
    master = dtype in LOW_PRECISION and group["low_precision"] == "master"
    used = (True, True, group["amsgrad"], group["centered"], master)
    return tuple(key for key, is_used in zip(AVERAGES, used, strict=True) if is_used)


@dataclass
class Batch:
    """Parameters of one dtype on one device that a kernel takes, with all that belongs to them.

    Attributes:
        params: The parameters.
        grads: The gradient of each. The batch holds them until the step is done.
        state: For each key of :data:`AVERAGES` and :data:`SCALARS` that is in use, the tensor of
            each parameter.
        dtype: The dtype of params and grads.
        state_dtype: The dtype of the averages; ``master_param`` is float32.
    """

    params: list[Tensor]
    grads: list[Tensor]
    state: dict[str, list[Tensor]]
    dtype: torch.dtype
    state_dtype: torch.dtype


class Kernel(Protocol):
    """The kernel of a type of device."""

    scalars_on_device: bool
    """Whether it wants the scalars of the state on the device of the parameters."""

    def takes(self, dtype: torch.dtype, group: dict[str, Any]) -> bool:
        """Return whether it has code for parameters of a dtype under a group's options."""
        ...

    def step(
        self,
        batch: Batch,
        group: dict[str, Any],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
    ) -> bool:
        """Make one step.

        Args:
            batch: What the step is made of.
            group: The options.
            grad_scale: The gradients are this number, one float32, times what they should be.
            found_inf: One float32; where it is not 0 nothing is changed.

        Returns:
            False where nothing was done.
        """
        ...


def batches(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Tensor]],
    group: dict[str, Any],
    kernel: Kernel,
) -> list[Batch]:
    """Return what the kernel takes of these parameters, in batches of one dtype.

    Left out are tensors of subclasses, on another device than the first, not dense, not laid out
    as their parameter, of another dtype than the step expects, or with a lazy negation.

    Args:
        params: Parameters that have a gradient.
        grads: The gradient of each.
        states: The state of each, complete.
        group: Their options.
        kernel: The kernel of the device of the first parameter.
    """
    device = params[0].get_device()
    dtypes = [*map(_dtype, params)]
    found: list[Batch] = []
    for dtype in dict.fromkeys(dtypes):
        if not kernel.takes(dtype, group):
            continue
        rows: Sequence[int] = range(len(params))
        if dtypes.count(dtype) < len(params):
            rows = [i for i in rows if dtypes[i] == dtype]
        keys = (*averages_of(dtype, group), *SCALARS)
        columns = zip(*(itemgetter(*keys)(states[i]) for i in rows), strict=True)
        batch = Batch(
            [params[i] for i in rows],
            [grads[i] for i in rows],
            dict(zip(keys, map(list, columns), strict=True)),
            dtype,
            state_dtype(params[rows[0]], group),
        )
        scalar_device = device if kernel.scalars_on_device else -1
        found += _suited(batch, device, scalar_device)
    return found


def _suited(batch: Batch, device: int, scalar_device: int) -> list[Batch]:
    """Return the batch, or without the rows that do not fit where there are such rows.

    Checks work on whole columns, which takes a fraction of the time that rows would take. Halving
    finds the few rows that do not fit.
    """
    if _fits(batch, device, scalar_device):
        return [batch]
    count = len(batch.params)
    if count == 1:
        return []
    merged: dict[torch.dtype, Batch] = {}  # a kernel counts all steps of a batch in one dtype
    for half in (slice(0, count // 2), slice(count // 2, count)):
        for part in _suited(_part(batch, half), device, scalar_device):
            whole = merged.setdefault(part.state["step"][0].dtype, part)
            if whole is not part:
                whole.params += part.params
                whole.grads += part.grads
                for key, column in part.state.items():
                    whole.state[key] += column
    return list(merged.values())


def _part(batch: Batch, rows: slice) -> Batch:
    state = {key: column[rows] for key, column in batch.state.items()}
    return Batch(batch.params[rows], batch.grads[rows], state, batch.dtype, batch.state_dtype)


def _fits(batch: Batch, device: int, scalar_device: int) -> bool:
    columns = [(batch.params, batch.dtype), (batch.grads, batch.dtype)]
    for key, column in batch.state.items():
        if key in SCALARS:
            if not _are_scalars(column, key, scalar_device):
                return False
        else:
            dtype = torch.float32 if key == "master_param" else batch.state_dtype
            columns.append((column, dtype))
    for column, dtype in columns:
        types = {*map(type, column)}
        if types != {Tensor} and not (column is batch.params and types <= {Tensor, Parameter}):
            return False
        if (
            {*map(_dtype, column)} != {dtype}
            or {*map(Tensor.get_device, column)} != {device}
            or any(map(Tensor.is_neg, column))
        ):
            return False
    tensors = [column for column, _ in columns]
    shapes = [*map(_shape, batch.params)]
    if any([*map(_shape, column)] != shapes for column in tensors[1:]):
        return False
    try:
        if all(all(map(Tensor.is_contiguous, column)) for column in tensors):
            return True
        return all(_same_layout(row) for row in zip(*tensors, strict=True))
    except RuntimeError:  # a tensor without strides, such as a sparse one
        return False


def _are_scalars(column: list[Tensor], key: str, device: int) -> bool:
    allowed = {torch.float64} if key != "step" else {torch.float32, torch.float64}
    dtypes = {*map(_dtype, column)}
    return (
        {*map(type, column)} == {Tensor}
        and len(dtypes) == 1
        and dtypes <= allowed
        and {*map(Tensor.get_device, column)} == {device}
        and {*map(Tensor.numel, column)} == {1}
        and not any(map(Tensor.is_neg, column))
    )


def _same_layout(tensors: tuple[Tensor, ...]) -> bool:
    """Return whether tensors of one shape are dense and laid out alike in memory."""
    if any(tensor.layout != torch.strided for tensor in tensors):
        return False
    shape = tuple(tensors[0].shape)
    # The stride of a dimension of size 1 says nothing.
    strides = {
        tuple(s for n, s in zip(shape, tensor.stride(), strict=True) if n != 1)
        for tensor in tensors
    }
    return len(strides) == 1 and _dense(tuple(n for n in shape if n != 1), strides.pop())


@functools.lru_cache(maxsize=1024)
def _dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Return whether the elements fill a piece of memory without gaps, in whichever order."""
    expected = 1
    for step, size in sorted(zip(stride, shape, strict=True)):
        if step != expected:
            return False
        expected *= size
    return True
