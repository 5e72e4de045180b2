"""16-bit, complex and overlapping parameters: what a step makes of them before its arithmetic.

:mod:`laprop.arithmetic` computes with float32, float64 and pairs of reals. Here 16-bit tensors are
widened before a step and rounded after it, complex ones are seen as pairs of reals, and rows that
cannot be in a list of tensors are found.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter

from laprop.kernels.rows import LOW_PRECISION, SCALARS

__all__ = ["Row", "alone", "stochastic_rounding", "widen", "write_back"]

Row = dict[str, Tensor]
"""What a step needs of one parameter: ``param``, ``grad`` and its state under their own keys."""


def stochastic_rounding(source: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float32 numbers rounded at random, without bias, to a neighbour in a 16-bit dtype.

    Numbers that the dtype holds exactly, inf and NaN keep their value.

    Args:
        source: float32, of any shape.
        dtype: torch.bfloat16 or torch.float16.
    """
    dropped = 16 if dtype == torch.bfloat16 else 13  # bits of the float32 mantissa
    noise = torch.randint_like(source, 1 << dropped, dtype=torch.int32)
    # Floats of one sign, read as integers, are ordered by magnitude. Random bits are added below
    # the cut and may carry into the bits that are kept; then the lower bits are cut off.
    rounded = ((source.view(torch.int32) + noise) & -(1 << dropped)).view(torch.float32)
    if dtype == torch.float16:
        # Below 2**-14 float16 has the fixed spacing 2**-24, so more bits have to be cut off.
        fixed = torch.floor(source * 2.0**24 + noise * 2.0**-dropped) * 2.0**-24
        rounded = torch.where(source.abs() < 2.0**-14, fixed, rounded)
    return torch.where(source.isfinite(), rounded, source).to(dtype)


def alone(rows: list[Row]) -> set[int]:
    """Return the indices of the rows that must not be in a list of tensors.

    Lists cannot be changed where a tensor has a lazy negation, or where a DTensor stands beside a
    plain tensor. Where rows share memory, each has to be read after the step of the one before it.
    While torch.compile traces there are no addresses; then 16-bit rows, whose steps would be lost,
    count as if they shared memory.
    """
    written = [
        (i, tensor)
        for i, row in enumerate(rows)
        for key, tensor in row.items()
        if key == "param" or (tensor.dtype in LOW_PRECISION and key != "grad")
    ]
    if torch.compiler.is_compiling():
        return {i for i, tensor in written if tensor.dtype in LOW_PRECISION}
    apart = {i for i, row in enumerate(rows) if any(map(Tensor.is_neg, row.values()))}
    special = {i for i, row in enumerate(rows) if type(row["param"]) not in (Tensor, Parameter)}
    if len(special) < len(rows):
        apart |= special
    owner, end = -1, 0  # of the spans so far, the one that reaches furthest
    for begin, stop, i in sorted((*_span(tensor), i) for i, tensor in written):
        if begin < end:
            apart |= {i, owner}
        if stop > end:
            owner, end = i, stop
    return apart


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the addresses at which a tensor's memory begins and ends; (0, 0) if it has none."""
    if isinstance(tensor, FakeTensor) or not (begin := tensor.data_ptr()):
        return 0, 0
    if tensor.is_contiguous():
        return begin, begin + tensor.nbytes
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return begin, begin + (last + 1) * tensor.element_size()


def widen(row: Row, group: dict[str, Any]) -> list[tuple[Tensor, Tensor, bool]]:
    """Replace the 16-bit tensors of a row by float32 tensors, and complex ones by pairs of reals.

    Returns:
        For each tensor replaced by float32: the tensor, its replacement, and whether the result is
        rounded at random when it is written back.
    """
    if row["param"].is_complex():
        row["grad"] = row["grad"].resolve_conj()
        row |= {key: torch.view_as_real(x) for key, x in row.items() if key not in SCALARS}
    narrow = []
    param = row["param"]
    if param.dtype in LOW_PRECISION:
        wide = row.get("master_param")
        if wide is None:
            wide = param.to(torch.float32)
        else:
            # A weight that differs from its rounded master copy was changed from outside, so the
            # master copy takes its value.
            wide.copy_(torch.where(wide.to(param.dtype) == param, wide, param.to(wide.dtype)))
        narrow.append((param, wide, group["low_precision"] == "stochastic"))
        row["param"] = wide
        row["grad"] = row["grad"].to(torch.float32)
    if group["state_dtype"] is not None:
        for key, tensor in row.items():
            if tensor.dtype in LOW_PRECISION:
                row[key] = tensor.to(torch.float32)
                narrow.append((tensor, row[key], True))
    return narrow


def write_back(narrow: list[tuple[Tensor, Tensor, bool]]) -> None:
    """Write the float32 results to the 16-bit tensors that :func:`widen` returned."""
    for target, wide, at_random in narrow:
        target.copy_(stochastic_rounding(wide, target.dtype) if at_random else wide)
