"""What all kernels share: the choice of the parameters that they take, and their interface.

Nothing is kept from one step to the next. Each step asks torch for the type, dtype, device, sizes,
strides and address of every tensor that the kernel will use. A kernel therefore never relies on
what a tensor was in an earlier step, and no tensor is held longer than the optimizer holds it.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, Protocol

import torch
from torch import Tensor

from laprop.kernels.native import AVERAGES, COLUMNS, SCALARS
from laprop.kernels.tensors import look

__all__ = [
    "AVERAGES",
    "DTYPES",
    "LOW_PRECISION",
    "SCALARS",
    "Batch",
    "Kernel",
    "averages_of",
    "batches",
    "fits_state_dtype",
    "state_dtype",
]

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # cpu.cpp has this order
LOW_PRECISION = DTYPES[2:]

_dtype = attrgetter("dtype")


def state_dtype(param: Tensor, group: dict[str, Any]) -> torch.dtype:
    """Return the dtype in which a parameter's averages are kept."""
    if group["state_dtype"] is not None:
        return torch.bfloat16
    return torch.float32 if param.dtype in LOW_PRECISION else param.dtype


def fits_state_dtype(dtype: torch.dtype, group: dict[str, Any]) -> bool:
    """Return whether a kernel has code for the group's ``state_dtype``.

    The second pass of ``cautious`` would read averages after their rounding.
    """
    return group["state_dtype"] is None or not (dtype == torch.float64 or group["cautious"])


def averages_of(dtype: torch.dtype, group: dict[str, Any]) -> tuple[str, ...]:
    """Return the keys of the tensors in the state of a parameter of this dtype."""
    keys: tuple[str, ...] = ("exp_avg", "exp_avg_sq")  # in the order of AVERAGES
    if group["amsgrad"]:
        keys += ("max_exp_avg_sq",)
    if group["centered"]:
        keys += ("exp_avg_grad",)
    if group["low_precision"] == "master" and dtype in LOW_PRECISION:
        keys += ("master_param",)
    return keys


@dataclass
class Batch:
    """Parameters of one dtype on one device that a kernel takes, with all that belongs to them.

    Attributes:
        kernel: The kernel.
        params: The parameters.
        grads: The gradient of each. The batch holds them until the step is done.
        state: For each key of :data:`AVERAGES` and :data:`SCALARS` that is in use, the tensor of
            each parameter.
        dtype: The dtype of params and grads.
        state_dtype: The dtype of the averages; ``master_param`` is float32.
        table: The table of ``table.h``, one column after the other: the number of elements of each
            parameter, then addresses.
    """

    kernel: Kernel
    params: list[Tensor]
    grads: list[Tensor]
    state: Mapping[str, Sequence[Tensor]]
    dtype: torch.dtype
    state_dtype: torch.dtype
    table: array[int]

    def columns(self) -> list[array[int]]:
        """Return the columns of the table."""
        count = len(self.params)
        return [self.table[at : at + count] for at in range(0, len(self.table), count)]


class Kernel(Protocol):
    """The kernel of a type of device."""

    scalars_on_device: bool
    """Whether it wants the scalars of the state on the device of the parameters."""

    def takes(self, dtype: torch.dtype, group: dict[str, Any]) -> bool:
        """Return whether it has code for parameters of a dtype under a group's options."""
        ...

    def runs_on(self, device: torch.device) -> bool:
        """Return whether it can run on a device, which is of its type."""
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
            grad_scale: One float32 that the gradients were multiplied by, or None. The kernel
                divides them by it.
            found_inf: One float32, or None. If it is not 0, the step must change nothing.

        Returns:
            False if the kernel cannot make the step and changed nothing, else True.
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

    Args:
        params: Parameters that have a gradient. Only those on the device of the first are taken.
        grads: The gradient of each.
        states: The state of each, complete.
        group: Their options.
        kernel: The kernel of the device of the first parameter.

    Raises:
        KeyError: A state is not complete.
    """
    dtypes, device = [*map(_dtype, params)], params[0].device
    found: list[Batch] = []
    for dtype in dict.fromkeys(dtypes):
        if not kernel.takes(dtype, group):
            continue
        keys = (*averages_of(dtype, group), *SCALARS)
        rows = None  # all of them
        if dtypes.count(dtype) < len(dtypes):
            rows = [i for i, other in enumerate(dtypes) if other == dtype]
        columns: tuple[list[Any], ...] = (params, grads, states)
        while rows is None or rows:
            if rows is not None:
                columns = tuple([column[i] for i in rows] for column in columns)
            batch, rows = _batch(columns, keys, dtype, group, kernel, device)
            if rows is None:
                found.append(batch)
                break
    return found


def _batch(
    columns: tuple[list[Any], ...],
    keys: tuple[str, ...],
    dtype: torch.dtype,
    group: dict[str, Any],
    kernel: Kernel,
    device: torch.device,
) -> tuple[Batch, list[int] | None]:
    """Return rows as a batch, and the indices of those that fit, or None if all fit.

    The columns are the parameters, their gradients and their states.
    """
    params, grads, states = columns
    entries = zip(*map(itemgetter(*keys), states), strict=True)
    state = dict(zip(keys, entries, strict=True))
    averages = state_dtype(params[0], group)
    # All steps of a batch are counted in one dtype, float32 or float64.
    wide_steps = state["step"][0].dtype == torch.float64
    table, rows = look(
        [params, grads, *state.values()],
        *_expected(keys, dtype, averages, wide_steps),
        len(SCALARS),
        len(COLUMNS),
        device,
        kernel.scalars_on_device,
        group["agc"] is None and not group["cautious"],  # these need sums over whole tensors
    )
    return Batch(kernel, params, grads, state, dtype, averages, table), rows


@functools.lru_cache(maxsize=256)
def _expected(
    keys: tuple[str, ...], dtype: torch.dtype, averages: torch.dtype, wide_steps: bool
) -> tuple[tuple[int, ...], tuple[torch.dtype, ...]]:
    """Return the columns of the table in which tensors belong, and the dtypes that they have."""
    expected = {
        "master_param": torch.float32,
        "step": torch.float64 if wide_steps else torch.float32,
        **dict.fromkeys(SCALARS[1:], torch.float64),
    }
    columns = tuple(map(COLUMNS.index, ("param", "grad", *keys)))
    return columns, (dtype, dtype, *(expected.get(key, averages) for key in keys))
