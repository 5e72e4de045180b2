"""The CUDA kernel of :class:`laprop.LaProp`, in Triton: a whole param group in two launches.

Triton compiles it when a step is first made, and comes with torch's CUDA wheels. Addresses are read
from a table in the device's memory, so that one launch takes any number of tensors: one for the
scalars of all parameters (:func:`_advance`), one for all their elements (:func:`_update`), and one
more of these for each further dtype. Nothing waits for the device, and nothing is decided on the
host that a step decides (``found_inf``, centering), so a step can be captured in a CUDA graph.

With ``TRITON_INTERPRET=1`` the kernels run on tensors of the CPU, which is how they are tested
where there is no GPU. So far there was none: they were compiled for one, but not run on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from laprop.kernels import plan

__all__ = ["CudaPlan", "kernel"]

_DTYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
_BLOCK = 2048  # elements of a program; with 8 warps 16 bytes of each thread are one load
_WARPS = 8
_ROWS = 128  # parameters of a program of _advance

# Columns of the table, int64: where a parameter and its state are, and how many elements it has.
_PARAM = tl.constexpr(0)
_EXP_AVG = tl.constexpr(1)
_EXP_AVG_SQ = tl.constexpr(2)
_MAXIMUM = tl.constexpr(3)
_MEAN = tl.constexpr(4)
_MASTER = tl.constexpr(5)
_STEP = tl.constexpr(6)
_WEIGHT = tl.constexpr(7)
_SQ_WEIGHT = tl.constexpr(8)
_NUMEL = tl.constexpr(9)
_COLUMNS = tl.constexpr(10)

# Columns of the scalars, float64, that _advance leaves for _update.
_NU = tl.constexpr(0)
_COMPLEMENT = tl.constexpr(1)
_KEEP = tl.constexpr(2)
_GAIN = tl.constexpr(3)
_CORRECTION = tl.constexpr(4)
_EPS = tl.constexpr(5)
_SCALE = tl.constexpr(6)
_DECAY = tl.constexpr(7)
_WARM = tl.constexpr(8)
_FACTORS = tl.constexpr(9)

# What captured graphs read whenever they are replayed; a graph does not say when it is gone.
_captured: list[tuple[Tensor, ...]] = []


@triton.jit(do_not_specialize=["rows", "warmup"])
def _advance(
    table,
    scalars,
    rows,
    lr: tl.float64,
    beta1: tl.float64,
    beta2: tl.float64,
    eps: tl.float64,
    weight_decay: tl.float64,
    warmup,
    lr_at,
    beta1_at,
    beta2_at,
    found_inf,
    STEP_DTYPE: tl.constexpr,
    DECAY_BY_LR: tl.constexpr,
    EPS_IN_SQRT: tl.constexpr,
    LR_WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Count one step of each parameter, and leave its factors; as ``_advance`` and ``_final``."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = row < rows
    zero = tl.zeros((BLOCK,), tl.float64)
    # Not by a cast: a float is one of float32 to Triton, unless it meets a tensor of float64.
    lr = zero + (lr if lr_at is None else tl.load(lr_at))
    beta1 = zero + (beta1 if beta1_at is None else tl.load(beta1_at))
    beta2 = zero + (beta2 if beta2_at is None else tl.load(beta2_at))

    at = table + row.to(tl.int64) * _COLUMNS
    step_at = tl.load(at + _STEP, there, other=0).to(tl.pointer_type(STEP_DTYPE))
    weight_at = tl.load(at + _WEIGHT, there, other=0).to(tl.pointer_type(tl.float64))
    sq_weight_at = tl.load(at + _SQ_WEIGHT, there, other=0).to(tl.pointer_type(tl.float64))
    step = tl.load(step_at, there, other=0) + 1
    old_weight = tl.load(weight_at, there, other=0)
    old_sq_weight = tl.load(sq_weight_at, there, other=0)
    weight = beta1 * old_weight + (1 - beta1) * (lr if LR_WEIGHTED else 1.0)
    c_n = beta2 * old_sq_weight + (1 - beta2)

    counts = there
    if found_inf is not None:
        counts = there & (tl.load(found_inf + 0 * row) == 0)
    tl.store(step_at, step, counts)
    tl.store(weight_at, weight, counts)
    tl.store(sq_weight_at, c_n, counts)

    divisor = tl.where(weight == 0, 1.0, weight)
    to = scalars + row.to(tl.int64) * _FACTORS
    tl.store(to + _NU, beta2, there)
    tl.store(to + _COMPLEMENT, 1 - beta2, there)
    tl.store(to + _KEEP, tl.where(weight == 0, 0.0, beta1 * old_weight / divisor), there)
    tl.store(to + _GAIN, tl.where(weight == 0, 0.0, (1 - beta1) * lr / divisor), there)
    tl.store(to + _CORRECTION, 1 / (c_n if EPS_IN_SQRT else tl.sqrt(c_n)), there)
    tl.store(to + _EPS, zero + eps, there)
    tl.store(to + _SCALE, lr if LR_WEIGHTED else tl.where(lr == 0, 0.0, zero + 1), there)
    decay = zero + weight_decay
    if DECAY_BY_LR:
        decay = decay * lr
    tl.store(to + _DECAY, tl.where(lr == 0, 1.0, 1 - decay), there)
    tl.store(to + _WARM, (step > warmup).to(tl.float64), there)


@triton.jit
def _pointer(table, row, COLUMN: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    pointer = tl.load(table + row * _COLUMNS + COLUMN).to(tl.pointer_type(DTYPE))
    return tl.multiple_of(pointer, 16) if ALIGNED else pointer


@triton.jit
def _root(x):
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def _update_elements(
    table,
    grad_at,
    factors,
    grad_scale,
    row,
    at,
    mask,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    FLOOR: tl.constexpr,
    ALIGNED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    CENTERED: tl.constexpr,
    EPS_IN_SQRT: tl.constexpr,
    MASTER: tl.constexpr,
    MAXIMIZE: tl.constexpr,
):
    nu = tl.load(factors + _NU).to(WIDE)
    complement = tl.load(factors + _COMPLEMENT).to(WIDE)
    correction = tl.load(factors + _CORRECTION).to(WIDE)
    eps = tl.load(factors + _EPS).to(WIDE)
    scale = tl.load(factors + _SCALE).to(WIDE)
    warm = tl.load(factors + _WARM) != 0
    param_at = _pointer(table, row, _PARAM, DTYPE, ALIGNED) + at
    exp_avg_at = _pointer(table, row, _EXP_AVG, WIDE, ALIGNED) + at
    exp_avg_sq_at = _pointer(table, row, _EXP_AVG_SQ, WIDE, ALIGNED) + at

    g = tl.load(grad_at, mask).to(WIDE)
    param = tl.load(param_at, mask).to(WIDE)
    m = tl.load(exp_avg_at, mask)
    n = tl.load(exp_avg_sq_at, mask)
    # All that is read, before anything is written: a write could hold up the reads after it.
    if CENTERED:
        mean_at = _pointer(table, row, _MEAN, WIDE, ALIGNED) + at
        mean = tl.load(mean_at, mask)
    if AMSGRAD:
        maximum_at = _pointer(table, row, _MAXIMUM, WIDE, ALIGNED) + at
        maximum = tl.load(maximum_at, mask)
    if MASTER:
        master_at = _pointer(table, row, _MASTER, WIDE, ALIGNED) + at
        master = tl.load(master_at, mask)

    if grad_scale is not None:
        # As torch's fused optimizers and GradScaler.unscale_, it is the unscaled that stays.
        g = g * (1 / tl.load(grad_scale).to(tl.float64)).to(tl.float32).to(WIDE)
        tl.store(grad_at, g.to(DTYPE), mask)
    if MAXIMIZE:
        g = -g
    n = n * nu + complement * g * g
    tl.store(exp_avg_sq_at, n, mask)
    if CENTERED:
        mean = mean * nu + g * complement
        tl.store(mean_at, mean, mask)
        variance = n - mean * mean
        variance = tl.where(variance < 0, 0.0, variance)  # NaN stays NaN, here and below
        n = tl.where(warm, variance, n)
    if AMSGRAD:
        greatest = tl.where((n > maximum) | (n != n), n, maximum)
        if CENTERED:
            # As in the authors' code, uncentered moments do not enter a centered maximum.
            greatest = tl.where(warm, greatest, maximum)
            n = tl.where(warm, greatest, n)
        else:
            n = greatest
        tl.store(maximum_at, greatest, mask)
    root = _root(n * correction + eps) if EPS_IN_SQRT else _root(n) * correction + eps
    root = tl.where(root < FLOOR, FLOOR, root)
    gain = tl.load(factors + _GAIN).to(WIDE)
    # Triton's own division of float32 is an approximation, as is its root.
    u = gain * g / root if tl.float64 == WIDE else tl.div_rn(gain * g, root)
    m = m * tl.load(factors + _KEEP).to(WIDE) + u
    tl.store(exp_avg_at, m, mask)

    theta = param
    if MASTER:
        # A weight that is not the rounded copy was changed from outside: that one counts.
        theta = tl.where(master.to(DTYPE).to(WIDE) == param, master, param)
    theta = tl.where(scale != 0, theta - scale * m, theta)  # not by a product alone: 0 * inf
    theta = theta * tl.load(factors + _DECAY).to(WIDE)
    if MASTER:
        tl.store(master_at, theta, mask)
    tl.store(param_at, theta.to(DTYPE), mask)


@triton.jit
def _update(
    table,
    grads,
    scalars,
    blocks,
    grad_scale,
    found_inf,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    FLOOR: tl.constexpr,
    ALIGNED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    CENTERED: tl.constexpr,
    EPS_IN_SQRT: tl.constexpr,
    MASTER: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Make the step of one block of a parameter."""
    block = blocks + tl.program_id(0).to(tl.int64) * 2
    row = tl.load(block).to(tl.int64)
    start = tl.load(block + 1).to(tl.int64) * BLOCK
    numel = tl.load(table + row * _COLUMNS + _NUMEL)
    goes = True
    if found_inf is not None:
        goes = tl.load(found_inf) == 0
    if goes:
        grad_at = tl.load(grads + row).to(tl.pointer_type(DTYPE))
        if ALIGNED:
            grad_at = tl.multiple_of(grad_at, 16)
        at = start + tl.arange(0, BLOCK)
        factors = scalars + row * _FACTORS
        # Without a mask where there is none, as a load of 16 bytes cannot have one within.
        if start + BLOCK <= numel:
            _update_elements(
                table, grad_at + at, factors, grad_scale, row, at, None, DTYPE, WIDE, FLOOR,
                ALIGNED, AMSGRAD, CENTERED, EPS_IN_SQRT, MASTER, MAXIMIZE,
            )  # fmt: skip
        else:
            _update_elements(
                table, grad_at + at, factors, grad_scale, row, at, at < numel, DTYPE, WIDE, FLOOR,
                ALIGNED, AMSGRAD, CENTERED, EPS_IN_SQRT, MASTER, MAXIMIZE,
            )  # fmt: skip


@dataclass
class _Bucket:
    """Parameters of one dtype, which one launch takes."""

    rows: list[int]
    dtype: torch.dtype
    aligned: bool  # parameters and averages, to 16 bytes
    master: bool
    blocks: Tensor  # int32, (programs, 2): a row, and which of its blocks


class CudaPlan(plan.Plan):
    """A param group on a CUDA device, as the kernels take it."""

    scalars_on_device = True

    def _lay_out(self) -> None:
        if self._device.type == "cuda" and torch.cuda.get_device_capability(self._device) < (7, 0):
            raise plan.Unsuited("Triton needs compute capability 7.0")
        if len({entries["step"].dtype for entries in self._states}) > 1:
            raise plan.Unsuited("steps are counted in float32 and in float64")
        table: list[list[int]] = []
        kinds: dict[tuple[torch.dtype, bool, bool], list[int]] = {}
        for row, (param, entries, averages) in enumerate(
            zip(self._params, self._states, self._averages, strict=True)
        ):
            found = [param.data_ptr()]
            found += [entries[k].data_ptr() if k in averages else 0 for k in plan.AVERAGES]
            aligned = not any(address % 16 for address in found)
            found += [entries[key].data_ptr() for key in plan.SCALARS]
            table.append([*found, param.numel()])
            if param.numel():
                kinds.setdefault((param.dtype, aligned, "master_param" in averages), []).append(row)
        self._of_a_graph = self._captures()
        self._table = self._upload(torch.tensor(table))
        self._factors = torch.empty(
            len(table), int(_FACTORS), dtype=torch.float64, device=self._device
        )
        self._buckets = [
            _Bucket(rows, dtype, aligned, master, self._upload(self._blocks(rows)))
            for (dtype, aligned, master), rows in kinds.items()
        ]
        self._grad_addresses: list[int] = []  # of which there is a copy on the device

    def _blocks(self, rows: list[int]) -> Tensor:
        counts = torch.tensor([-(-self._params[row].numel() // _BLOCK) for row in rows])
        firsts = counts.cumsum(0) - counts
        within = torch.arange(int(counts.sum())) - firsts.repeat_interleave(counts)
        return torch.stack([torch.tensor(rows).repeat_interleave(counts), within], 1).int()

    def fits(self, group: dict[str, Any], state: dict[Tensor, dict[str, Any]]) -> bool:
        """Take over the present gradients; return False where anything else is not as it was."""
        # A table that a graph copies to the device is there when the graph is replayed.
        return not self._of_a_graph and super().fits(group, state)

    def _captures(self) -> bool:
        """Whether what is launched now goes into a CUDA graph."""
        if self._device.type != "cuda":
            return False
        with torch.cuda.device(self._device):
            return torch.cuda.is_current_stream_capturing()

    def _upload(self, host: Tensor) -> Tensor:
        """Return a copy on the device, without waiting for it."""
        if self._device.type != "cuda":
            return host
        if not self._captures():
            return host.pin_memory().to(self._device, non_blocking=True)
        # The graph copies again whenever it is replayed, so the source has to stay.
        device = host.to(self._device, non_blocking=True)
        _captured.append((host, device))
        return device

    def step(
        self,
        group: dict[str, Any],
        grad_scale: Tensor | None = None,
        found_inf: Tensor | None = None,
    ) -> bool:
        """Make one step with the group's present options; see the base class."""
        if self._grad_addresses != (addresses := self._grads[:]):
            self._grad_table = self._upload(torch.tensor([address or 0 for address in addresses]))
            self._grad_addresses = addresses
        if self._device.type != "cuda":
            self._launch(group, grad_scale, found_inf)
        else:
            with torch.cuda.device(self._device):
                self._launch(group, grad_scale, found_inf)
        if self._captures():
            blocks = [bucket.blocks for bucket in self._buckets]
            _captured.append((self._table, self._factors, self._grad_table, *blocks))
            self._grad_addresses = []  # copied to the device by the graph, if at all
        written = [param.grad for param in self._params if param.grad is not None]
        # As an in-place operation does, for autograd to notice a weight changed before backward.
        torch.autograd.graph.increment_version(
            self._params if grad_scale is None else self._params + written
        )
        return True

    def _launch(
        self, group: dict[str, Any], grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        numbers, places = [], []
        for x in (lr, beta1, beta2):
            on_device = isinstance(x, Tensor) and x.device == self._device
            places.append(x if on_device else None)
            numbers.append(0.0 if on_device else float(x))
        if grad_scale is not None:
            grad_scale = grad_scale.to(self._device, non_blocking=True)
        if found_inf is not None:
            found_inf = found_inf.to(self._device, non_blocking=True)
        _advance[(-(-len(self._params) // _ROWS),)](
            self._table,
            self._factors,
            len(self._params),
            *numbers,
            float(group["eps"]),
            float(group["weight_decay"]),
            group["centered_warmup"],
            *places,
            found_inf,
            STEP_DTYPE=_DTYPES[self._states[0]["step"].dtype],
            DECAY_BY_LR=group["decay_by_lr"],
            EPS_IN_SQRT=group["eps_in_sqrt"],
            LR_WEIGHTED=group["lr_weighted_correction"],
            BLOCK=_ROWS,
        )
        for bucket in self._buckets:
            wide = torch.float64 if bucket.dtype == torch.float64 else torch.float32
            _update[(len(bucket.blocks),)](
                self._table,
                self._grad_table,
                self._factors,
                bucket.blocks,
                grad_scale,
                found_inf,
                DTYPE=_DTYPES[bucket.dtype],
                WIDE=_DTYPES[wide],
                FLOOR=torch.finfo(wide).tiny ** 0.5,
                ALIGNED=bucket.aligned
                and not any(self._grad_addresses[row] % 16 for row in bucket.rows),
                AMSGRAD=group["amsgrad"],
                CENTERED=group["centered"],
                EPS_IN_SQRT=group["eps_in_sqrt"],
                MASTER=bucket.master,
                MAXIMIZE=group["maximize"],
                BLOCK=_BLOCK,
                num_warps=_WARPS,
            )


def kernel() -> type[plan.Plan]:
    """Return the plan; that Triton is there is known, as this module was imported."""
    return CudaPlan
