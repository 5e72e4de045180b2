"""The Triton kernels behind :mod:`laprop.kernels.cuda`, which run on the device.

:func:`advance` computes the scalars of all parameters, :func:`update` makes a pass over all their
elements, and :func:`reduce` sums over blocks. Each program of ``update`` takes one block of one
parameter.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["CAUTION", "CLIP", "FACTORS", "advance", "reduce", "update"]

# Columns of the table, int64: the addresses of a parameter and its state, the number of its
# elements, and the number of blocks of all parameters before it.
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
_FIRST_BLOCK = tl.constexpr(10)
COLUMNS = tl.constexpr(11)

# Columns of the factors, float64, which advance writes and update reads.
_NU = tl.constexpr(0)
_COMPLEMENT = tl.constexpr(1)
_KEEP = tl.constexpr(2)
_GAIN = tl.constexpr(3)
_CORRECTION = tl.constexpr(4)
_EPS = tl.constexpr(5)
_SCALE = tl.constexpr(6)
_DECAY = tl.constexpr(7)
_WARM = tl.constexpr(8)
CLIP = tl.constexpr(9)
CAUTION = tl.constexpr(10)
_STEPS = tl.constexpr(11)
FACTORS = tl.constexpr(12)


@triton.jit(do_not_specialize=["rows", "warmup"])
def advance(
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
    LR_IN_MOMENTUM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Count one step of each parameter and write its factors.

    The formulas are those of _scalars in laprop/arithmetic.py.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = row < rows
    zero = tl.zeros((BLOCK,), tl.float64)
    # Triton takes a float for float32, unless it is combined with a tensor of float64, so the sum
    # with a tensor of zeros stands in the place of a cast.
    lr = zero + (lr if lr_at is None else tl.load(lr_at))
    lr = tl.where(lr < 0, 0.0, lr)  # negative only by a scheduler's rounding errors
    beta1 = zero + (beta1 if beta1_at is None else tl.load(beta1_at))
    beta2 = zero + (beta2 if beta2_at is None else tl.load(beta2_at))

    at = table + row.to(tl.int64) * COLUMNS
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
    to = scalars + row.to(tl.int64) * FACTORS
    tl.store(to + _NU, beta2, there)
    tl.store(to + _COMPLEMENT, 1 - beta2, there)
    tl.store(to + _KEEP, tl.where(weight == 0, 0.0, beta1 * old_weight / divisor), there)
    gain = (1 - beta1) * (lr if LR_IN_MOMENTUM else 1.0)
    tl.store(to + _GAIN, tl.where(weight == 0, 0.0, gain / divisor), there)
    tl.store(to + _CORRECTION, 1 / (c_n if EPS_IN_SQRT else tl.sqrt(c_n)), there)
    tl.store(to + _EPS, zero + eps, there)
    by_lr = LR_WEIGHTED or not LR_IN_MOMENTUM
    tl.store(to + _SCALE, lr if by_lr else tl.where(lr == 0, 0.0, zero + 1), there)
    decay = zero + weight_decay
    if DECAY_BY_LR:
        decay = decay * lr
    tl.store(to + _DECAY, tl.where(lr == 0, 1.0, 1 - decay), there)
    tl.store(to + _WARM, (step > warmup).to(tl.float64), there)
    tl.store(to + CLIP, zero + 1, there)
    tl.store(to + CAUTION, zero + 1, there)
    tl.store(to + _STEPS, step.to(tl.float64), there)


@triton.jit
def _pointer(table, row, COLUMN: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    pointer = tl.load(table + row * COLUMNS + COLUMN).to(tl.pointer_type(DTYPE))
    return tl.multiple_of(pointer, 16) if ALIGNED else pointer


@triton.jit
def _load(pointer, mask):
    """Return a block, with 0 where the mask is false; a mask of None loads all of it."""
    if mask is None:
        return tl.load(pointer)
    else:
        return tl.load(pointer, mask, other=0)


@triton.jit
def _root(x):
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def _rounded(x, seed, at, WHICH: tl.constexpr, NARROW: tl.constexpr):
    """Return x, or if it is stored in bfloat16, x rounded at random without bias."""
    if NARROW:
        bits = x.to(tl.int32, bitcast=True)
        noise = tl.randint(seed + WHICH, at.to(tl.int32)).to(tl.int32) & 0xFFFF
        finite = (bits & 0x7F800000) != 0x7F800000
        bits = tl.where(finite, (bits + noise) & -65536, bits)
        x = bits.to(tl.float32, bitcast=True).to(tl.bfloat16)
    return x


@triton.jit
def _gradient(
    grads, grad_scale, row, at, mask, DTYPE: tl.constexpr, WIDE: tl.constexpr, ALIGNED: tl.constexpr
):
    """Return a block of the gradient divided by grad_scale, and its pointers."""
    pointer = tl.load(grads + row).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    g = _load(pointer + at, mask).to(WIDE)
    if grad_scale is not None:
        g = g * (1 / tl.load(grad_scale).to(tl.float64)).to(tl.float32).to(WIDE)
    return g, pointer + at


@triton.jit
def _theta(
    table, row, at, mask, param,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, ALIGNED: tl.constexpr, MASTER: tl.constexpr,
):  # fmt: skip
    """Return the weight before the step, in the wide dtype."""
    if MASTER:
        master = _load(_pointer(table, row, _MASTER, WIDE, ALIGNED) + at, mask)
        # A weight that differs from its rounded master copy was changed from outside, and is used
        # in the master copy's place.
        param = tl.where(master.to(DTYPE).to(WIDE) == param, master, param)
    return param


@triton.jit
def _put_theta(
    table, row, at, mask, theta, update, factors, param_at,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, ALIGNED: tl.constexpr, MASTER: tl.constexpr,
):  # fmt: skip
    """Move the weight and store it."""
    scale = tl.load(factors + _SCALE).to(WIDE)
    theta = tl.where(scale != 0, theta - scale * update, theta)  # 0 * inf would be NaN
    theta = theta * tl.load(factors + _DECAY).to(WIDE)
    if MASTER:
        tl.store(_pointer(table, row, _MASTER, WIDE, ALIGNED) + at, theta, mask)
    tl.store(param_at, theta.to(DTYPE), mask)


@triton.jit
def _update_elements(
    table,
    grads,
    factors,
    partial,
    seed,
    grad_scale,
    row,
    at,
    mask,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    STATE: tl.constexpr,
    FLOOR: tl.constexpr,
    ALIGNED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    CENTERED: tl.constexpr,
    EPS_IN_SQRT: tl.constexpr,
    MASTER: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    CAUTIOUS: tl.constexpr,
):
    NARROW: tl.constexpr = STATE != WIDE
    nu = tl.load(factors + _NU).to(WIDE)
    complement = tl.load(factors + _COMPLEMENT).to(WIDE)
    correction = tl.load(factors + _CORRECTION).to(WIDE)
    eps = tl.load(factors + _EPS).to(WIDE)
    warm = tl.load(factors + _WARM) != 0
    # A graph that is replayed gets the same `seed` again, so the number of steps is added. The row
    # is added because `at` counts elements within it.
    noise = (row << 32) + (seed + 4 * tl.load(factors + _STEPS).to(tl.int64))
    param_at = _pointer(table, row, _PARAM, DTYPE, ALIGNED) + at
    exp_avg_at = _pointer(table, row, _EXP_AVG, STATE, ALIGNED) + at
    exp_avg_sq_at = _pointer(table, row, _EXP_AVG_SQ, STATE, ALIGNED) + at

    # Read everything before anything is written, because a write could delay later reads.
    g, grad_at = _gradient(grads, grad_scale, row, at, mask, DTYPE, WIDE, ALIGNED)
    m = _load(exp_avg_at, mask).to(WIDE)
    n = _load(exp_avg_sq_at, mask).to(WIDE)
    if CENTERED:
        mean_at = _pointer(table, row, _MEAN, WIDE, ALIGNED) + at  # it never has 16 bits
        mean = _load(mean_at, mask)
    if AMSGRAD:
        maximum_at = _pointer(table, row, _MAXIMUM, STATE, ALIGNED) + at
        maximum = _load(maximum_at, mask).to(WIDE)
    if not CAUTIOUS:
        param = _load(param_at, mask).to(WIDE)
        theta = _theta(table, row, at, mask, param, DTYPE, WIDE, ALIGNED, MASTER)

    # Leave the unscaled gradient in memory, as torch's fused optimizers and GradScaler.unscale_ do.
    # With cautious the second pass does it, because it too has to read the scaled gradient.
    if (grad_scale is not None) and (not CAUTIOUS):
        tl.store(grad_at, g.to(DTYPE), mask)
    g = g * tl.load(factors + CLIP).to(WIDE)
    if MAXIMIZE:
        g = -g
    n = n * nu + complement * g * g
    tl.store(exp_avg_sq_at, _rounded(n, noise, at, 0, NARROW), mask)
    if CENTERED:
        mean = mean * nu + g * complement
        tl.store(mean_at, mean, mask)
        # If both overflow, n stays infinite, and the gradient counts as 0.
        variance = tl.where(n < float("inf"), n - mean * mean, n)
        variance = tl.where(variance < 0, 0.0, variance)  # NaN stays NaN, here and below
        n = tl.where(warm, variance, n)
    if AMSGRAD:
        greatest = tl.where((n > maximum) | (n != n), n, maximum)
        if CENTERED:
            # As in the authors' code, only centered moments enter the maximum.
            greatest = tl.where(warm, greatest, maximum)
            n = tl.where(warm, greatest, n)
        else:
            n = greatest
        tl.store(maximum_at, _rounded(greatest, noise, at, 2, NARROW), mask)
    root = _root(n * correction + eps) if EPS_IN_SQRT else _root(n) * correction + eps
    root = tl.where(root < FLOOR, FLOOR, root)
    gain = tl.load(factors + _GAIN).to(WIDE)
    # Triton's operator for the division of float32 is an approximation, as is tl.sqrt.
    u = gain * g / root if tl.float64 == WIDE else tl.div_rn(gain * g, root)
    m = m * tl.load(factors + _KEEP).to(WIDE) + u
    tl.store(exp_avg_at, _rounded(m, noise, at, 3, NARROW), mask)
    if CAUTIOUS:
        agrees = ((m > 0) & (g > 0)) | ((m < 0) & (g < 0))
        tl.store(partial, tl.sum(agrees.to(tl.float64), 0))
    else:
        _put_theta(table, row, at, mask, theta, m, factors, param_at, DTYPE, WIDE, ALIGNED, MASTER)


@triton.jit
def _squares_elements(
    table, grads, factors, partial, grad_scale, row, at, mask,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, ALIGNED: tl.constexpr, MASTER: tl.constexpr,
):  # fmt: skip
    """Write the sums of the squares of a block's gradients and of its weights to `partial`."""
    g, _ = _gradient(grads, grad_scale, row, at, mask, DTYPE, WIDE, ALIGNED)
    param_at = _pointer(table, row, _PARAM, DTYPE, ALIGNED) + at
    param = _load(param_at, mask).to(WIDE)
    theta = _theta(table, row, at, mask, param, DTYPE, WIDE, ALIGNED, MASTER).to(tl.float64)
    g = g.to(tl.float64)
    tl.store(partial, tl.sum(g * g, 0))
    tl.store(partial + 1, tl.sum(theta * theta, 0))


@triton.jit
def _move_elements(
    table, grads, factors, grad_scale, row, at, mask,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, ALIGNED: tl.constexpr, MASTER: tl.constexpr,
    MAXIMIZE: tl.constexpr,
):  # fmt: skip
    """Move a block of the weights where the update agrees with the gradient in sign."""
    g, grad_at = _gradient(grads, grad_scale, row, at, mask, DTYPE, WIDE, ALIGNED)
    if grad_scale is not None:
        tl.store(grad_at, g.to(DTYPE), mask)
    g = g * tl.load(factors + CLIP).to(WIDE)
    if MAXIMIZE:
        g = -g
    m = _load(_pointer(table, row, _EXP_AVG, WIDE, ALIGNED) + at, mask)
    agrees = ((m > 0) & (g > 0)) | ((m < 0) & (g < 0))
    update = m * tl.where(agrees, tl.load(factors + CAUTION).to(WIDE), 0.0)
    param_at = _pointer(table, row, _PARAM, DTYPE, ALIGNED) + at
    param = _load(param_at, mask).to(WIDE)
    theta = _theta(table, row, at, mask, param, DTYPE, WIDE, ALIGNED, MASTER)
    _put_theta(table, row, at, mask, theta, update, factors, param_at, DTYPE, WIDE, ALIGNED, MASTER)


@triton.jit
def _one_pass(
    table, grads, factors, partial, seed, grad_scale, row, at, mask,
    PASS: tl.constexpr, DTYPE: tl.constexpr, WIDE: tl.constexpr, STATE: tl.constexpr,
    FLOOR: tl.constexpr, ALIGNED: tl.constexpr, AMSGRAD: tl.constexpr, CENTERED: tl.constexpr,
    EPS_IN_SQRT: tl.constexpr, MASTER: tl.constexpr, MAXIMIZE: tl.constexpr,
    CAUTIOUS: tl.constexpr,
):  # fmt: skip
    if PASS == 0:
        _squares_elements(
            table, grads, factors, partial, grad_scale, row, at, mask, DTYPE, WIDE, ALIGNED, MASTER
        )
    elif PASS == 1:
        _update_elements(
            table, grads, factors, partial, seed, grad_scale, row, at, mask, DTYPE, WIDE, STATE,
            FLOOR, ALIGNED, AMSGRAD, CENTERED, EPS_IN_SQRT, MASTER, MAXIMIZE, CAUTIOUS,
        )  # fmt: skip
    else:
        _move_elements(
            table, grads, factors, grad_scale, row, at, mask, DTYPE, WIDE, ALIGNED, MASTER,
            MAXIMIZE,
        )  # fmt: skip


@triton.jit(do_not_specialize=["seed"])
def update(
    table,
    grads,
    scalars,
    partials,
    blocks,
    seed,
    grad_scale,
    found_inf,
    PASS: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    STATE: tl.constexpr,
    FLOOR: tl.constexpr,
    ALIGNED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    CENTERED: tl.constexpr,
    EPS_IN_SQRT: tl.constexpr,
    MASTER: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    CAUTIOUS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Make a pass over one block of a parameter.

    PASS is 0 for the norms that agc needs, 1 for the step, 2 to move the weights with cautious.
    """
    block = blocks + tl.program_id(0).to(tl.int64) * 2
    row = tl.load(block).to(tl.int64)
    within = tl.load(block + 1).to(tl.int64)
    start = within * BLOCK
    numel = tl.load(table + row * COLUMNS + _NUMEL)
    first = tl.load(table + row * COLUMNS + _FIRST_BLOCK)
    goes = True
    if found_inf is not None:
        goes = tl.load(found_inf) == 0
    if goes:
        at = start + tl.arange(0, BLOCK)
        factors = scalars + row * FACTORS
        partial = partials + (first + within) * 2
        # Only a parameter's last block has a mask, as a masked load cannot take 16 bytes at once.
        if start + BLOCK <= numel:
            _one_pass(
                table, grads, factors, partial, seed, grad_scale, row, at, None, PASS, DTYPE, WIDE,
                STATE, FLOOR, ALIGNED, AMSGRAD, CENTERED, EPS_IN_SQRT, MASTER, MAXIMIZE, CAUTIOUS,
            )  # fmt: skip
        else:
            _one_pass(
                table, grads, factors, partial, seed, grad_scale, row, at, at < numel, PASS, DTYPE,
                WIDE, STATE, FLOOR, ALIGNED, AMSGRAD, CENTERED, EPS_IN_SQRT, MASTER, MAXIMIZE,
                CAUTIOUS,
            )  # fmt: skip


@triton.jit
def reduce(
    table, scalars, partials, agc: tl.float64, MAKE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum over the blocks of a parameter and write its factor MAKE, which is CLIP or CAUTION."""
    row = tl.program_id(0).to(tl.int64)
    numel = tl.load(table + row * COLUMNS + _NUMEL)
    first = tl.load(table + row * COLUMNS + _FIRST_BLOCK)
    count = (numel + BLOCK_SIZE - 1) // BLOCK_SIZE
    one = tl.zeros((BLOCK,), tl.float64)
    other = tl.zeros((BLOCK,), tl.float64)
    for begin in range(0, count, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        one += tl.load(partials + (first + at) * 2, at < count, other=0)
        if MAKE == CLIP:
            other += tl.load(partials + (first + at) * 2 + 1, at < count, other=0)
    if numel > 0:
        total = tl.sum(one, 0)
        if MAKE == CLIP:
            size = tl.sqrt(tl.sum(other, 0))
            ratio = agc * tl.where(size < 1e-3, 1e-3, size) / tl.sqrt(total)
            factor = tl.where(ratio >= 1, 1.0, ratio)  # NaN stays NaN
        else:
            share = total / numel
            factor = 1 / tl.where(share < 1e-3, 1e-3, share)
        tl.store(scalars + row * FACTORS + MAKE, factor)
