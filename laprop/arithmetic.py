"""The arithmetic of a step of :class:`laprop.LaProp`, for one tensor and for lists of tensors.

The scalars of the rule have one implementation, :func:`_scalars`. The tensors have two, one for a
single tensor and one for lists of tensors (foreach), as everywhere in torch.optim. The kernels in
:mod:`laprop.kernels` are a third implementation, which makes one pass over memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.optimizer import (
    _default_to_fused_or_foreach,
    _get_capturable_supported_devices,
)

from laprop.kernels.rows import SCALARS
from laprop.precision import Row, alone, widen, write_back
from laprop.state import widest

__all__ = ["check_capturable", "step_rows"]

Scalar = float | Tensor
_Advance = Callable[[Scalar, Scalar], tuple[Scalar, ...]]


class _Common(NamedTuple):
    """What all parameters of a group share in a step.

    Scalars that are tensors are float64 (float32 on a device without float64). A negative lr has
    already become 0.
    """

    group: dict[str, Any]
    lr: Scalar
    mu: Scalar
    nu: Scalar
    scale: Scalar
    decay: Scalar
    as_tensors: bool  # compute with the state's scalars as tensors, without reading their values
    advance: _Advance  # _advance with this group's values


class _Own(NamedTuple):
    """The factors of one parameter in a step."""

    warm: bool | Tensor  # whether centering has begun
    keep: Scalar  # exp_avg = keep * exp_avg + gain * u
    gain: Scalar
    correction: Scalar  # 1 / sqrt(c_n), or 1 / c_n with eps_in_sqrt


def check_capturable(tensors: list[Tensor], group: dict[str, Any]) -> None:
    """Check that a group's steps can be captured where its tensors are, if it asks for that.

    Raises:
        RuntimeError: ``capturable`` is set on a device that cannot capture graphs.
    """
    devices = _get_capturable_supported_devices() if group["capturable"] else []
    if group["capturable"] and any(tensor.device.type not in devices for tensor in tensors):
        raise RuntimeError(
            "If capturable=True, params and state_steps must be on supported devices: "
            f"{', '.join(devices)}"
        )


def step_rows(rows: list[Row], group: dict[str, Any]) -> None:
    """Make one step of the parameters of a group, in place.

    Args:
        rows: The tensors of each parameter, with a complete state. The dicts are changed, so they
            cannot be used again.
        group: The options of the group.
    """
    if not rows:
        return
    params = [row["param"] for row in rows]
    lr, (mu, nu) = group["lr"], group["betas"]
    tensor_options = any(isinstance(x, Tensor) for x in (lr, mu, nu))
    compiling = torch.compiler.is_compiling()
    # With fused=True only parameters that no kernel takes come here. foreach is then the nearest
    # implementation to what was asked for.
    foreach = group["foreach"] or bool(group["fused"])
    if group["foreach"] is None and group["fused"] is None:
        _, foreach = _default_to_fused_or_foreach(params, group["differentiable"], use_fused=False)

    if tensor_options and not group["capturable"] and not compiling:
        # The scalars of the state are on the CPU, so lr, mu and nu have to be there too. Reading
        # them waits only for a tensor that is on a device. Floats give results that are bitwise
        # equal to the kernels'; tensors keep their derivatives.
        read = Tensor.cpu if group["differentiable"] else Tensor.item
        lr, mu, nu = (read(x) if isinstance(x, Tensor) else x for x in (lr, mu, nu))
    device = rows[0]["step"].device
    lr, mu, nu = (_exact(x, device) for x in (lr, mu, nu))
    # A scheduler's rounding errors may make a tensor negative, and nothing has read it so far.
    # The derivative of torch.where is 1 at 0, as a step has to have it; that of clamp is 0.
    lr = torch.where(lr < 0, 0.0, lr) if isinstance(lr, Tensor) else max(lr, 0.0)
    as_tensors = (
        group["capturable"]
        or group["differentiable"]
        or compiling
        or device.type != "cpu"  # reading a scalar would wait for the device
    )
    advance: _Advance = functools.partial(_advance, group, lr, mu, nu)
    if len(rows) > 1 and not as_tensors:
        advance = functools.cache(advance)  # parameters with equal scalars share the result
    common = _Common(group, lr, mu, nu, *_moves(lr, group), as_tensors, advance)

    singles = rows
    if foreach:
        apart = alone(rows)
        singles = [row for i, row in enumerate(rows) if i in apart]
        listed = [row for i, row in enumerate(rows) if i not in apart]
        narrow = [pair for row in listed for pair in widen(row, group)]
        if listed:
            _foreach_step(listed, common)
        write_back(narrow)
    for row in singles:
        # Rows may share memory, so each is read after the step of the one before it.
        narrow = widen(row, group)
        _single_step(row, common)
        write_back(narrow)


# --- scalars --------------------------------------------------------------------------------------


def _exact(x: Scalar, device: torch.device) -> Scalar:
    """Return a hyper-parameter: a float, or a 0-dimensional tensor in the widest dtype.

    While torch.compile traces, a float becomes a tensor too, by an addition: torch.compile would
    write a float that changes as a constant into a foreach call or into torch.scalar_tensor, and
    compile again at each change.
    """
    if isinstance(x, Tensor):
        return (x if x.dim() == 0 else x.squeeze()).to(widest(x.device))
    if torch.compiler.is_compiling():
        return torch.zeros((), dtype=widest(device), device=device) + x
    return float(x)


def _quotient(a: Scalar, b: Scalar) -> Scalar:
    """Return a / b, and 0 for 0 / 0."""
    if isinstance(b, Tensor):
        # Autograd multiplies by 1 / b also where the result is not used.
        return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))
    return a / b if b != 0 else 0.0


def _moves(lr: Scalar, group: dict[str, Any]) -> tuple[Scalar, Scalar]:
    """Return scale and decay in ``param = (param - scale * exp_avg) * decay``.

    For lr = 0 they are 0 and 1, so that the step leaves the parameter as it is.
    """
    by_lr = group["lr_weighted_correction"] or not group["lr_in_momentum"]
    weight_decay = group["weight_decay"]
    if isinstance(lr, Tensor):
        any_lr = (lr != 0).to(lr.dtype)
        share = lr if group["decay_by_lr"] else any_lr
        return lr if by_lr else any_lr, 1 - share * weight_decay if weight_decay != 0 else 1.0
    if lr == 0:
        return 0.0, 1.0
    return lr if by_lr else 1.0, 1 - weight_decay * (lr if group["decay_by_lr"] else 1.0)


def _scalars(row: Row, common: _Common) -> _Own:
    """Count one step of a parameter, in place and in float64, and return its factors.

    With ``as_tensors`` the factors are tensors, and nothing waits for a device. A row may then also
    hold vectors with one entry for each of several parameters.
    """
    group = common.group
    step, weight, sq_weight = row["step"], row["exp_avg_weight"], row["exp_avg_sq_weight"]
    read: Callable[..., Scalar] = Tensor.clone if common.as_tensors else Tensor.item
    write: Callable[..., Tensor] = Tensor.copy_ if common.as_tensors else Tensor.fill_
    if common.as_tensors:
        step += 1
    else:
        step.fill_(step.item() + 1)  # faster than an addition, which makes a tensor of the 1
    new_weight, c_n, keep, gain, correction = common.advance(read(weight), read(sq_weight))
    write(weight, new_weight)
    write(sq_weight, c_n)
    warm = not group["centered"] or read(step) > group["centered_warmup"]
    return _Own(warm, keep, gain, correction)


def _advance(
    group: dict[str, Any], lr: Scalar, mu: Scalar, nu: Scalar, weight: Scalar, sq_weight: Scalar
) -> tuple[Scalar, ...]:
    """Return the scalars after a step, and the factors ``keep``, ``gain`` and ``correction``."""
    if not isinstance(sq_weight, Tensor) and sq_weight < 0:
        raise ValueError(f"state['exp_avg_sq_weight'] is {sq_weight} (allowed: at least 0)")
    # By default exp_avg is the average of u_s with the weights mu^(t-s) lr_s, so a step with lr = 0
    # does not count. The other options weight by mu^(t-s) alone. exp_avg_weight is the sum of the
    # weights, times 1 - mu. keep and gain do not depend on the scale of lr.
    inside = group["lr_in_momentum"]
    new_weight = mu * weight + (1 - mu) * (
        lr if inside and group["lr_weighted_correction"] else 1.0
    )
    c_n = nu * sq_weight + (1 - nu)
    root = c_n
    if not group["eps_in_sqrt"]:
        root = c_n.sqrt() if isinstance(c_n, Tensor) else math.sqrt(c_n)
    keep = _quotient(mu * weight, new_weight)
    gain = _quotient((1 - mu) * (lr if inside else 1.0), new_weight)
    return new_weight, c_n, keep, gain, 1 / root


def _norm(x: Tensor) -> Tensor:
    """Return the norm of a tensor, a scalar in the widest dtype."""
    norm: Tensor = torch.linalg.vector_norm(x, dtype=widest(x.device))
    return norm


def _clip_factor(norm: Tensor, size: Tensor, agc: float) -> Tensor:
    """Return the factor, at most 1, that bounds a gradient's norm by agc times its parameter's.

    Args:
        norm: The gradient's norm; a vector of those of several gradients gives several factors.
        size: The parameter's norm, which counts as at least 1e-3; of the shape of ``norm``.
        agc: The bound.
    """
    # A gradient of 0 needs no factor, and without a division by 0 it has a derivative.
    return (agc * size.clamp(min=1e-3) / torch.where(norm == 0, 1.0, norm)).clamp(max=1.0)


def _moved(update: Tensor, scale: Scalar) -> Tensor:
    """Return update * scale, and 0 for a scale of 0, whatever the update."""
    if isinstance(scale, Tensor):
        moves = scale != 0
        if torch.is_grad_enabled():  # the product has a derivative in a scale of 0 too
            moves = moves | update.isfinite()
        return torch.where(moves, update, 0.0) * scale
    return update * scale if scale != 0 else torch.zeros_like(update)


def _caution(exp_avg: Tensor, grad: Tensor) -> Tensor:
    """Return a mask: 0 where momentum and gradient do not agree in sign, else 1 / share.

    The share is that of the elements that agree, and counts as at least 1e-3.
    """
    agrees = (exp_avg.sign() * grad.sign()).clamp(min=0)
    return agrees * (1 / agrees.mean(dtype=widest(agrees.device)).clamp(min=1e-3))


def _root_floor(dtype: torch.dtype) -> float:
    """Return the least value that the denominator may take: for smaller |g|, g**2 is denormal."""
    return float(torch.finfo(dtype).tiny ** 0.5)


# --- one tensor -----------------------------------------------------------------------------------


def _single_step(row: Row, common: _Common) -> None:
    group, nu = common.group, common.nu
    scale, decay = common.scale, common.decay
    param, exp_avg, exp_avg_sq = row["param"], row["exp_avg"], row["exp_avg_sq"]
    own = _scalars(row, common)
    warm = own.warm

    def old(tensor: Tensor) -> Tensor:
        # Autograd needs the tensors that it saved unchanged, and the state is changed in place.
        return tensor.clone() if group["differentiable"] else tensor

    grad = -row["grad"] if group["maximize"] else row["grad"]
    if group["agc"] is not None:
        factor = _clip_factor(_norm(grad), _norm(old(param)), group["agc"])
        grad = grad * factor.to(grad.dtype)

    if isinstance(nu, Tensor):
        exp_avg_sq.copy_(old(exp_avg_sq) * nu + (1 - nu) * grad * grad)
    else:
        exp_avg_sq.mul_(nu).addcmul_(grad, grad, value=1 - nu)
    second = old(exp_avg_sq)
    if group["centered"]:
        mean = row["exp_avg_grad"]
        if isinstance(nu, Tensor):
            mean.copy_(old(mean) * nu + grad * (1 - nu))
        else:
            mean.mul_(nu).add_(grad, alpha=1 - nu)
        if warm is not False:
            # n >= mean^2 holds in exact arithmetic, but rounding can break it. If both overflow, n
            # minus a finite number stays infinite, and the gradient counts as 0.
            square = old(mean).square().clamp(max=torch.finfo(second.dtype).max)
            variance = (second - square).clamp_(min=0)
            second = torch.where(warm, variance, second) if warm is not True else variance
    if group["amsgrad"] and warm is not False:
        # As in the authors' code, uncentered moments do not enter a centered maximum.
        previous = old(row["max_exp_avg_sq"])
        maximum = torch.maximum(previous, second)
        second = torch.where(warm, maximum, second) if warm is not True else maximum
        row["max_exp_avg_sq"].copy_(
            torch.where(warm, maximum, previous) if warm is not True else maximum
        )

    root = _differentiable_root if group["differentiable"] else torch.sqrt
    if group["eps_in_sqrt"]:
        denom = root((second * own.correction).add_(group["eps"]))
    else:
        denom = (root(second) * own.correction).add_(group["eps"])
    floor = _root_floor(exp_avg_sq.dtype)
    if group["eps"] < floor:
        denom = denom.clamp(min=floor)

    if common.as_tensors:
        exp_avg.copy_(old(exp_avg) * own.keep + grad / denom * own.gain)
    else:
        exp_avg.mul_(own.keep).addcdiv_(grad, denom, value=cast(float, own.gain))
    update = old(exp_avg)
    if group["cautious"]:
        update = update * _caution(update, grad)
    if common.as_tensors:
        param.copy_((old(param) - _moved(update, scale)) * decay)
    else:
        if scale != 0:
            param.add_(update, alpha=cast(float, -scale))
        if decay != 1:
            param.mul_(decay)


def _differentiable_root(x: Tensor) -> Tensor:
    """Return the root with the derivative 0 at 0, where torch.sqrt has an infinite derivative."""
    return torch.where(x == 0, 0.0, torch.where(x == 0, 1.0, x).sqrt())


# --- lists of tensors -----------------------------------------------------------------------------


def _foreach_step(rows: list[Row], common: _Common) -> None:
    # foreach takes lists of tensors of one device and dtype. The parameter decides the list; the
    # scalars have another dtype, and may be on another device.
    params = cast(list[Tensor | None], [row["param"] for row in rows])
    alike = Optimizer._group_tensors_by_device_and_dtype([params], with_indices=True)
    for _, indices in alike.values():
        _foreach_alike([rows[i] for i in indices], common)


def _foreach_alike(rows: list[Row], common: _Common) -> None:
    group, nu = common.group, common.nu

    def column(key: str) -> list[Tensor]:
        return [row[key] for row in rows]

    params, grads = column("param"), column("grad")
    exp_avgs, exp_avg_sqs = column("exp_avg"), column("exp_avg_sq")
    like = params[0]

    # On the CPU foreach makes a tensor of a number for each entry of a list. To make it once gives
    # the same bits in a third of the time.
    plain = like.device.type == "cpu" and {*map(type, params)} <= {Tensor, Parameter}
    wraps = plain and len(rows) > 2 and not common.as_tensors

    def shared(x: Any) -> Any:
        # A list of equal entries, because foreach with one tensor in its place reads that tensor's
        # value, which breaks a graph.
        if wraps and isinstance(x, float):
            x = torch.tensor(x, dtype=like.dtype, device="cpu")
        return [_local(x, like)] * len(rows) if isinstance(x, Tensor) else x

    def joined(factors: list[Scalar]) -> Any:
        # Usually all parameters have made the same steps.
        if common.as_tensors or factors.count(factors[0]) < len(factors):
            return factors
        return factors[0]

    if group["maximize"]:
        grads = list(torch._foreach_neg(grads))
    if group["agc"] is not None:
        grads = list(torch._foreach_mul(grads, _clip_factors(grads, params, group["agc"])))

    warm, keeps, gains, corrections = _scalars_of_all(rows, common, like)

    torch._foreach_mul_(exp_avg_sqs, shared(nu))
    if isinstance(nu, Tensor):
        squares = torch._foreach_mul(grads, shared(1 - nu))  # first, as grad^2 overflows earlier
        torch._foreach_mul_(squares, grads)
        torch._foreach_add_(exp_avg_sqs, squares)
    else:
        torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - nu)

    # The second moments of the denominator. centered and amsgrad replace entries of this list, and
    # exp_avg_sqs, which is the state, stays as it is.
    seconds = list(exp_avg_sqs)
    if group["centered"]:
        means = column("exp_avg_grad")
        torch._foreach_mul_(means, shared(nu))
        if isinstance(nu, Tensor):
            torch._foreach_add_(means, torch._foreach_mul(grads, shared(1 - nu)))
        else:
            torch._foreach_add_(means, grads, alpha=1 - nu)
        squared = torch._foreach_mul(means, means)
        torch._foreach_clamp_max_(squared, torch.finfo(means[0].dtype).max)  # as in _single_step
        variances = list(torch._foreach_sub(seconds, squared))
        torch._foreach_clamp_min_(variances, 0)
        seconds = _where(warm, variances, seconds)
    if group["amsgrad"]:
        maxima = column("max_exp_avg_sq")
        torch._foreach_maximum_(maxima, _where(warm, seconds, maxima))
        seconds = _where(warm, maxima, seconds)

    eps = shared(_exact(group["eps"], like.device))
    if group["eps_in_sqrt"]:
        denoms = torch._foreach_mul(seconds, shared(joined(corrections)))
        torch._foreach_add_(denoms, eps)
        torch._foreach_sqrt_(denoms)
    else:
        denoms = torch._foreach_sqrt(seconds)
        torch._foreach_mul_(denoms, shared(joined(corrections)))
        torch._foreach_add_(denoms, eps)
    floor = _root_floor(like.dtype)
    if group["eps"] < floor:
        torch._foreach_clamp_min_(denoms, floor)

    torch._foreach_mul_(exp_avgs, shared(joined(keeps)))
    if common.as_tensors:
        normalised = torch._foreach_div(grads, denoms)
        torch._foreach_mul_(normalised, gains)
        torch._foreach_add_(exp_avgs, normalised)
    else:
        torch._foreach_addcdiv_(exp_avgs, grads, denoms, joined(gains))

    updates = exp_avgs
    if group["cautious"]:
        masks = [_caution(m, g) for m, g in zip(exp_avgs, grads, strict=True)]
        updates = list(torch._foreach_mul(exp_avgs, masks))
    if common.as_tensors:
        scale = common.scale
        if isinstance(scale, Tensor):
            moves = _local(scale, like) != 0  # at a scale of 0 nothing moves, whatever the update
            updates = [torch.where(moves, update, 0.0) for update in updates]
        if isinstance(scale, Tensor) or scale != 0:
            torch._foreach_sub_(params, torch._foreach_mul(updates, shared(scale)))
    elif common.scale != 0:
        torch._foreach_add_(params, updates, alpha=cast(float, -common.scale))
    if isinstance(common.decay, Tensor) or common.decay != 1:
        torch._foreach_mul_(params, shared(common.decay))


def _clip_factors(grads: list[Tensor], params: list[Tensor], agc: float) -> list[Tensor]:
    """Return the factor of each gradient by :func:`_clip_factor`, in the gradients' dtype."""
    like = params[0]
    if any(type(param) not in (Tensor, Parameter) for param in params):
        # torch 2.14 cannot compute the norms of a list of DTensors in another dtype.
        pairs = zip(grads, params, strict=True)
        return [_local(_clip_factor(_norm(g), _norm(p), agc), like) for g, p in pairs]
    wide = widest(like.device)
    norms, sizes = (torch.stack(torch._foreach_norm(x, 2, wide)) for x in (grads, params))
    return list(_local(_clip_factor(norms, sizes, agc), like).unbind())


def _scalars_of_all(rows: list[Row], common: _Common, like: Tensor) -> list[list[Any]]:
    """Return the factors of all rows by :func:`_scalars`: for each factor a list, as foreach takes.

    Tensors have the device and dtype of ``like``.
    """
    if not common.as_tensors:
        return [list(x) for x in zip(*(_scalars(row, common) for row in rows), strict=True)]
    # An operation on a vector replaces one on the scalar of each parameter. Scalars may be on
    # several devices if a parameter was added after compiled steps, which moved those before it.
    columns = {key: [row[key] for row in rows] for key in SCALARS}
    device = rows[0]["step"].device
    vectors = {key: torch.stack([x.to(device) for x in columns[key]]) for key in SCALARS}
    warm, *factors = _scalars(vectors, common)
    for key, vector in vectors.items():
        torch._foreach_copy_(columns[key], vector.unbind())
    lists = (warm, *(_local(factor, like) for factor in factors))
    return [list(x.unbind()) if isinstance(x, Tensor) else [x] * len(rows) for x in lists]


def _local(x: Any, like: Tensor) -> Any:
    """Return a scalar as foreach wants it: a tensor has the device and dtype of ``like``."""
    if isinstance(x, Tensor):
        return x.to(device=like.device, dtype=like.dtype, non_blocking=True)
    return x


def _where(conditions: list[Any], a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    """Return a[i] or b[i] for each condition i; a bool costs no operation on the tensors."""
    return [
        torch.where(c, x, y) if isinstance(c, Tensor) else (x if c else y)
        for c, x, y in zip(conditions, a, b, strict=True)
    ]
