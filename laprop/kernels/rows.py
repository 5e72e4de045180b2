"""What the kernels have in common: which parameters of a group they take, and in which form.

Nothing is kept from one step to the next. Each step asks torch for the type, dtype, device, sizes,
strides and address of every tensor that the kernel is to touch. A kernel therefore never relies on
how a tensor was at an earlier step, and no tensor is held longer than the optimizer holds it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
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
    state: Mapping[str, Sequence[Tensor]]
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
    """Return what the kernel takes of these parameters, one batch for each dtype.

    Left out are tensors of subclasses, on another device than the first, not dense, not laid out
    as their parameter, of another dtype than the step expects, or with a lazy negation.

    Args:
        params: Parameters that have a gradient.
        grads: The gradient of each.
        states: The state of each, complete.
        group: Their options.
        kernel: The kernel of the device of the first parameter.

    Raises:
        KeyError: A state is not complete.
    """
    dtypes = [*map(_dtype, params)]
    found: list[Batch] = []
    for dtype in dict.fromkeys(dtypes):
        if not kernel.takes(dtype, group):
            continue
        own = params, grads, states
        if dtypes.count(dtype) < len(params):
            rows = [i for i, other in enumerate(dtypes) if other == dtype]
            own = [[column[i] for i in rows] for column in own]  # type: ignore[assignment]
        keys = (*averages_of(dtype, group), *SCALARS)
        columns = zip(*map(itemgetter(*keys), own[2]), strict=True)
        state = dict(zip(keys, columns, strict=True))
        batch = Batch(own[0], own[1], state, dtype, state_dtype(own[0][0], group))
        misfits = _misfits(batch, kernel.scalars_on_device)
        if misfits:
            batch = _without(batch, misfits)
        if batch.params:
            found.append(batch)
    return found


def _without(batch: Batch, misfits: set[int]) -> Batch:
    rows = [i for i in range(len(batch.params)) if i not in misfits]
    state = {key: [column[i] for i in rows] for key, column in batch.state.items()}
    params, grads = ([column[i] for i in rows] for column in (batch.params, batch.grads))
    return Batch(params, grads, state, batch.dtype, batch.state_dtype)


def _misfits(batch: Batch, scalars_on_device: bool) -> set[int]:
    """Return the rows that the kernel cannot take.

    Columns are looked at as a whole, one behind the other, which takes a fraction of the time that
    rows would take.
    """
    bad: set[int] = set()
    count = len(batch.params)

    def expect(values: list[Any], wanted: Any) -> None:
        if values.count(wanted) != len(values):
            bad.update(i % count for i, value in enumerate(values) if value != wanted)

    state = batch.state
    averages = [*chain(*(state[key] for key in AVERAGES[:-1] if key in state))]
    masters = state.get("master_param", ())
    scalars = [*chain(*(state[key] for key in SCALARS))]
    alike = [*batch.params, *batch.grads, *averages, *masters]
    expect([Tensor if kind is Parameter else kind for kind in map(type, batch.params)], Tensor)
    expect([*map(type, alike[count:])], Tensor)
    expect([*map(type, scalars)], Tensor)
    expect([*map(_dtype, batch.grads)], batch.dtype)
    expect([*map(_dtype, averages)], batch.state_dtype)
    expect([*map(_dtype, masters)], torch.float32)
    # All steps of a batch are counted in one dtype, float32 or float64.
    wide_steps = state["step"][0].dtype == torch.float64
    expect([*map(_dtype, state["step"])], torch.float64 if wide_steps else torch.float32)
    expect([*map(_dtype, scalars[count:])], torch.float64)
    # Without an accelerator all tensors are on the CPU, but for those of meta, whose address is 0.
    device = batch.params[0].get_device()
    if device >= 0 or _accelerated():
        expect([*map(Tensor.get_device, alike)], device)
        expect([*map(Tensor.get_device, scalars)], device if scalars_on_device else -1)
    expect([*map(Tensor.is_neg, alike)], False)
    if scalars_on_device:  # cpu.cpp looks at their values, none of which may be negative
        expect([*map(Tensor.is_neg, scalars)], False)

    shapes = [*map(_shape, batch.params)]
    others = [*map(_shape, alike[count:])]
    wanted = shapes * (len(others) // count)
    if others != wanted:
        bad.update(i % count for i in range(len(others)) if others[i] != wanted[i])
    try:
        contiguous = [*map(Tensor.is_contiguous, alike)]
    except RuntimeError:  # a tensor without strides, such as a sparse one
        contiguous = [x.layout == torch.strided and x.is_contiguous() for x in alike]
    if not all(contiguous):
        strided = {i % count for i, is_contiguous in enumerate(contiguous) if not is_contiguous}
        bad.update(i for i in strided - bad if not _same_layout(alike[i::count]))
    return bad


@functools.cache
def _accelerated() -> bool:
    """Return whether there is an accelerator; asked once, as asking takes longer than a row."""
    return torch.accelerator.is_available()


def _same_layout(tensors: list[Tensor]) -> bool:
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
