"""The CUDA kernel of :class:`laprop.LaProp`, in Triton: all parameters of a dtype in two launches.

The kernels are in :mod:`laprop.kernels.triton_code`. Triton, which comes with torch's CUDA wheels,
compiles them at the first step. They read addresses from a table in the device's memory, so that
one launch takes any number of tensors. A step has one launch for the scalars of all parameters and
one for all their elements, or two of these where some tensors are not aligned to 16 bytes. ``agc``
adds two launches between these, ``cautious`` two after them, of which the one over elements
is doubled likewise.
The host never waits for the device, and the device decides what depends on its data (``found_inf``,
centering), so a step can be captured in a CUDA graph.

With ``TRITON_INTERPRET=1`` the kernels run on tensors of the CPU, which is how they are tested
where there is no GPU. So far they were only compiled for a GPU, and not run on one.
"""

from __future__ import annotations

import functools
from collections.abc import MutableMapping
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from laprop.kernels.rows import AVERAGES, LOW_PRECISION, Batch, Kernel, fits_state_dtype
from laprop.kernels.triton_code import CAUTION, CLIP, COLUMNS, FACTORS, advance, reduce, update

__all__ = ["KERNEL", "CudaKernel"]

_DTYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
_BLOCK = 2048  # elements per program; with 8 warps each thread can load 16 bytes at once
_WARPS = 8
_ROWS = 128  # parameters per program of `advance`

# Tensors that captured graphs read at each replay. They are kept for ever, because a graph does not
# tell when it is deleted.
_captured: list[tuple[Tensor, ...]] = []
# Pinned memory for captured steps by the first average of a batch, one tensor for each step. Each
# step that is not captured adds what is lacking, because a capture cannot allocate any. The key is
# no parameter, because torch cannot swap the tensors of a module if they have weak references.
_pinned: MutableMapping[Tensor, list[Tensor]] = WeakTensorKeyDictionary()
_AHEAD = 4  # captured steps for which there is memory


class _Tables(NamedTuple):
    """The tables that a launch reads, on the device."""

    addresses: Tensor  # int64, (rows, columns)
    # Whether all tensors of these blocks are aligned; for each program the row and the number of
    # the block within it, int32, (programs, 2).
    blocks: list[tuple[bool, Tensor]]
    total: int  # number of blocks

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors of these tables."""
        return (self.addresses, *(blocks for _, blocks in self.blocks))


class CudaKernel:
    """The kernel for tensors on a CUDA device; see :class:`laprop.kernels.rows.Kernel`."""

    scalars_on_device = True

    def takes(self, dtype: torch.dtype, group: dict[str, Any]) -> bool:
        """Return whether there is code for parameters of a dtype under a group's options."""
        if dtype not in _DTYPES or not fits_state_dtype(dtype, group):
            return False
        return dtype not in LOW_PRECISION or group["low_precision"] != "stochastic"

    def runs_on(self, device: torch.device) -> bool:
        """Return whether Triton supports a device; where it interprets, this is a CPU."""
        return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (7, 0)

    def step(
        self,
        batch: Batch,
        group: dict[str, Any],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
    ) -> bool:
        """Make one step, if possible; see :meth:`laprop.kernels.rows.Kernel.step`."""
        device = batch.params[0].device
        if not self.runs_on(device):
            return False
        # Every in-place operation of torch does this, so that autograd notices if a tensor that it
        # saved was changed before its backward pass.
        torch.autograd.graph.increment_version(
            batch.params if grad_scale is None else batch.params + batch.grads
        )
        if device.type != "cuda":
            self._launch(batch, group, grad_scale, found_inf)
        else:
            with torch.cuda.device(device):
                self._launch(batch, group, grad_scale, found_inf)
        return True

    def _launch(
        self,
        batch: Batch,
        group: dict[str, Any],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
    ) -> None:
        device, count = batch.params[0].device, len(batch.params)
        tables, grad_table = _tables_of(batch, device, group["capturable"])
        factors = torch.empty(count, int(FACTORS), dtype=torch.float64, device=device)
        partials = torch.empty(max(tables.total, 1), 2, dtype=torch.float64, device=device)

        lr, (mu, nu) = group["lr"], group["betas"]
        numbers, places = [], []
        for x in (lr, mu, nu):
            on_device = isinstance(x, Tensor) and x.device == device
            places.append(x if on_device else None)
            numbers.append(0.0 if on_device else float(x))
        if grad_scale is not None:
            grad_scale = grad_scale.to(device, non_blocking=True)
        if found_inf is not None:
            found_inf = found_inf.to(device, non_blocking=True)
        advance[(-(-count // _ROWS),)](
            tables.addresses,
            factors,
            count,
            *numbers,
            float(group["eps"]),
            float(group["weight_decay"]),
            group["centered_warmup"],
            *places,
            found_inf,
            STEP_DTYPE=_DTYPES[batch.state["step"][0].dtype],
            DECAY_BY_LR=group["decay_by_lr"],
            EPS_IN_SQRT=group["eps_in_sqrt"],
            LR_WEIGHTED=group["lr_weighted_correction"] and group["lr_in_momentum"],
            LR_IN_MOMENTUM=group["lr_in_momentum"],
            BLOCK=_ROWS,
        )
        wide = torch.float64 if batch.dtype == torch.float64 else torch.float32
        draws = group["state_dtype"] is not None
        seed = int(torch.randint(2**30, (), device="cpu")) if draws else 0

        def elements(which: int) -> None:
            for aligned, blocks in tables.blocks:
                update[(len(blocks),)](
                    tables.addresses,
                    grad_table,
                    factors,
                    partials,
                    blocks,
                    seed,
                    grad_scale,
                    found_inf,
                    PASS=which,
                    DTYPE=_DTYPES[batch.dtype],
                    WIDE=_DTYPES[wide],
                    STATE=_DTYPES[batch.state_dtype],
                    FLOOR=torch.finfo(wide).tiny ** 0.5,
                    ALIGNED=aligned,
                    AMSGRAD=group["amsgrad"],
                    CENTERED=group["centered"],
                    EPS_IN_SQRT=group["eps_in_sqrt"],
                    MASTER="master_param" in batch.state,
                    MAXIMIZE=group["maximize"],
                    CAUTIOUS=group["cautious"],
                    BLOCK=_BLOCK,
                    num_warps=_WARPS,
                )

        def reduced(make: Any) -> None:
            reduce[(count,)](
                *(tables.addresses, factors, partials, float(group["agc"] or 0)),
                MAKE=make,
                BLOCK_SIZE=_BLOCK,
                BLOCK=_ROWS,
            )

        if group["agc"] is not None:
            elements(0)
            reduced(CLIP)
        elements(1)
        if group["cautious"]:
            reduced(CAUTION)
            elements(2)


def _captures(device: torch.device) -> bool:
    """Return whether a CUDA graph is being captured."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _tables_of(batch: Batch, device: torch.device, capturable: bool) -> tuple[_Tables, Tensor]:
    """Return the tables of a step and the addresses of its gradients, on the device."""
    numels, param_addresses, grad_addresses, *state = map(tuple, batch.columns())
    addresses = (param_addresses, *state)
    aligned = tuple(address % 16 == 0 for address in grad_addresses)
    first = batch.state["exp_avg"][0]
    if _captures(device):
        # During a capture nothing is cached: the copy to the device is recorded in the graph, so
        # the table does not exist on the device before the graph is replayed.
        spare = _pinned.get(first)
        free = [spare.pop()] if spare else []
        tables = _tables.__wrapped__(addresses, numels, aligned, device, free)
        grad_table = _uploaded.__wrapped__(grad_addresses, device, free)
        # The graph needs the tables, but does not keep them alive.
        _captured.append((*tables.tensors(), grad_table))
        return tables, grad_table
    tables = _tables(addresses, numels, aligned, device)
    grad_table = _uploaded(grad_addresses, device)
    if device.type == "cuda":
        if capturable:
            _reserve(first, len(numels) * (int(COLUMNS) + 1) + tables.total)
        # A cached table may have been made on another stream. When the cache drops it, its memory
        # must not be used again before this stream has read it.
        for table in (*tables.tensors(), grad_table):
            table.record_stream(torch.cuda.current_stream(device))
    return tables, grad_table


def _reserve(first: Tensor, size: int) -> None:
    """Keep pinned memory ready for captured steps of a batch.

    Args:
        first: The first average of the batch.
        size: How many times 8 bytes the tables of a step take.
    """
    spare = [memory for memory in _pinned.get(first, ()) if len(memory) >= size]
    while len(spare) < _AHEAD:
        spare.append(torch.empty(size, dtype=torch.int64, device="cpu", pin_memory=True))
    _pinned[first] = spare


def _upload(host: Tensor, device: torch.device, free: list[Tensor] | None) -> Tensor:
    """Return a copy on the device, without waiting for it.

    Args:
        host: What is copied; a multiple of 8 bytes.
        device: The device.
        free: During a capture, what is left of the step's pinned memory, else None.
    """
    if device.type != "cuda":
        return host
    if free is None:
        return host.pin_memory().to(device, non_blocking=True)
    # A graph can copy only from pinned memory, and does so at each replay, so this memory is never
    # written again. If no step was made before the capture, there is none, and torch may refuse.
    size = host.nbytes // 8
    if free and len(free[0]) >= size:
        memory, free[0] = free[0][:size], free[0][size:]
        host = memory.view(host.dtype).view(host.shape).copy_(host)
    _captured.append((host,))
    return host.to(device, non_blocking=True)


@functools.lru_cache(maxsize=64)
def _uploaded(
    addresses: tuple[int, ...], device: torch.device, free: list[Tensor] | None = None
) -> Tensor:
    return _upload(torch.tensor(addresses, dtype=torch.int64, device="cpu"), device, free)


@functools.lru_cache(maxsize=64)
def _tables(
    addresses: tuple[tuple[int, ...], ...],
    numels: tuple[int, ...],
    grads_aligned: tuple[bool, ...],
    device: torch.device,
    free: list[Tensor] | None = None,
) -> _Tables:
    """Return the tables for these addresses, cached because most steps have the same addresses."""
    counts = [-(-numel // _BLOCK) for numel in numels]
    firsts = [0, *accumulate(counts)]
    columns = [*addresses, numels, firsts[:-1]]
    table = torch.tensor(columns, dtype=torch.int64, device="cpu").T.contiguous()
    rows: dict[bool, list[int]] = {}
    averages = addresses[: 1 + len(AVERAGES)]
    for row, numel in enumerate(numels):
        if numel:
            aligned = grads_aligned[row] and not any(column[row] % 16 for column in averages)
            rows.setdefault(aligned, []).append(row)
    blocks = []
    for all_aligned, these in rows.items():
        pairs = [(row, within) for row in these for within in range(counts[row])]
        table_of_blocks = torch.tensor(pairs, dtype=torch.int32, device="cpu")
        blocks.append((all_aligned, _upload(table_of_blocks, device, free)))
    return _Tables(_upload(table, device, free), blocks, firsts[-1])


KERNEL: Kernel = CudaKernel()
