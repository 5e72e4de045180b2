r"""The update rules as pure functions, in the paper's symbols.

============  ==========================================================================
:math:`\theta`  parameters, the tensor ``theta``; :math:`g` its gradient
:math:`\lambda`  learning rate, ``lr``
:math:`\mu, \nu`  decay rates of the momentum and of the second moment (Adam's betas)
:math:`\epsilon`  ``epsilon``, added to the root of the bias-corrected second moment
:math:`c_m, c_n`  bias corrections :math:`1-\mu^t` and :math:`1-\nu^t`
============  ==========================================================================

Every rule in :data:`ALGORITHMS` is used in the same way::

    laprop = ALGORITHMS["laprop"]
    state = laprop.init(theta)
    for _ in range(steps):
        theta, state = laprop.step(theta, grad(theta), state, lr=1e-2, mu=0.9, nu=nu)

A hyper-parameter is a float, or a tensor over the *leading* dimensions of ``theta``: with ``theta``
of shape (B, d) and ``nu`` of shape (B,) each of the B members has its own nu, so a grid of B runs
is one program. Only correctly rounded elementwise operations are used: no ``pow``, ``lerp`` or
``addcmul``. On a CPU the square root is numpy's, because MKL's, which torch uses, has a wrong last
bit for one number in 150. Hence a member's path is bitwise the same alone and in a batch of any
size, with any number of threads and on any x86-64 processor.
The arithmetic of hyper-parameters is done in float64, and its results are then rounded to
``theta``'s precision. Give tensors in float64: with nu = 0.999 in float32, 1 - nu has a relative
error of 1e-5.

Where members are many and small, let the member be the fastest dimension in memory
(``torch.zeros(d, B).T``): the state takes over the layout, and a step is about 1.5 times faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

try:  # torch does not require it
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]

__all__ = ["ALGORITHMS", "Algorithm", "Hyper", "State", "exact_sqrt"]

State = dict[str, Tensor]
"""``m``, ``n``, ``n_max``, ``n_bar``: shaped as theta. ``c_m``, ``c_n``: float64, shaped as mu, nu
(a scalar before the first step; with ``lr_weighted_correction`` c_m is shaped as mu and lr
broadcast). ``t``: int64 scalar, on the CPU. Each rule keeps only the entries
that it needs."""

Hyper = float | Tensor


def exact_sqrt(x: Tensor) -> Tensor:
    """Return the correctly rounded root of each element, in x's dtype and memory layout.

    On a CPU numpy computes it, since the last bit of torch's root, which is MKL's, differs between
    processors. Torch computes it on other devices, where autograd needs its derivative, in
    transforms of torch.func, and where numpy is not installed; the root may then be wrong in the
    last bit. At 0 the derivative is 0.

    Args:
        x: float32 or float64, of any shape.
    """
    if x.requires_grad and torch.is_grad_enabled():
        return _differentiable_sqrt(x)
    if unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]  # forward-mode autograd
        return _differentiable_sqrt(x)
    if numpy is None or x.device.type != "cpu":
        return x.sqrt()
    try:
        array = x.detach().numpy()
    except RuntimeError:  # the tensors of torch.func's transforms have no memory
        return _differentiable_sqrt(x)
    with numpy.errstate(invalid="ignore"):  # the root of a negative number is NaN, as torch's is
        return torch.from_numpy(numpy.asarray(numpy.sqrt(array)))


def _differentiable_sqrt(x: Tensor) -> Tensor:
    """Return torch's root with the derivative 0 at 0, where torch's is infinite.

    :mod:`laprop.arithmetic` has the same expression. This module shares no code with the class,
    because tests check the class by it.
    """
    return torch.where(x == 0, 0.0, torch.where(x == 0, 1.0, x).sqrt())


# For each hyper-parameter whether a value is in its range, and the range in words.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "lr": (lambda x: 0 <= x < math.inf, "0 <= lr < inf"),
    "mu": (lambda x: 0 <= x < 1, "0 <= mu < 1"),
    "nu": (lambda x: 0 <= x < 1, "0 <= nu < 1"),
    "epsilon": (lambda x: 0 <= x < math.inf, "0 <= epsilon < inf"),
    "weight_decay": (lambda x: 0 <= x <= 1, "0 <= weight_decay <= 1"),
    "agc": (lambda x: 0 < x < math.inf, "0 < agc < inf"),
    "centered_warmup": (lambda x: x >= 0 and x % 1 == 0, "an integer >= 0"),
}


class _Step:
    """One step under way: the old state, the new state, and the pieces that the rules share."""

    def __init__(
        self,
        algorithm: Algorithm,
        theta: Tensor,
        g: Tensor,
        state: State,
        lr: Hyper,
        mu: Hyper,
        nu: Hyper,
        epsilon: Hyper,
        weight_decay: Hyper,
        agc: Hyper | None,
        centered_warmup: int,
    ) -> None:
        self.algorithm, self.theta, self.g, self.old = algorithm, theta, g, state
        if g.shape != theta.shape or g.dtype != theta.dtype:
            raise ValueError(
                f"g has shape {tuple(g.shape)} and dtype {g.dtype}; it must have those of theta, "
                f"{tuple(theta.shape)} and {theta.dtype}"
            )
        self.centered_warmup = self.exact("centered_warmup", centered_warmup)
        self.new: State = {}
        self.lr = self.exact("lr", lr)
        self.mu = self.exact("mu", mu)
        self.nu = self.exact("nu", nu)
        self.epsilon = self.exact("epsilon", epsilon)
        self.weight_decay = self.exact("weight_decay", weight_decay)
        hyper = [self.lr, self.mu, self.nu, self.epsilon, self.weight_decay]
        if agc is not None:
            agc = self.exact("agc", agc)
            hyper.append(agc)
        # agc and cautious reduce over these dimensions, which are all but the members'.
        members = max(x.dim() if isinstance(x, Tensor) else 0 for x in hyper)
        self.whole = tuple(range(members, theta.dim()))
        if agc is not None:
            self.g = self.clipped(agc)

    def exact(self, name: str, value: Hyper) -> Hyper:
        """Return a hyper-parameter in float64.

        Raises:
            ValueError: It is a float out of its range, or a tensor whose shape does not broadcast
                over the leading dimensions of theta.
            TypeError: It is neither a number nor a tensor.
        """
        if not isinstance(value, Tensor):
            is_allowed, allowed = _RANGES[name]
            if not isinstance(value, Real):
                raise TypeError(
                    f"Invalid {name}: {value!r} (allowed: a number or a tensor, {allowed})"
                )
            number = float(value)
            if not is_allowed(number):
                raise ValueError(f"Invalid {name}: {value!r} (allowed: {allowed})")
            return number
        lead = self.theta.shape[: value.dim()]
        if len(lead) < value.dim() or any(
            v not in (1, d) for v, d in zip(value.shape, lead, strict=True)
        ):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; it must broadcast over the leading "
                f"dimensions of theta, whose shape is {tuple(self.theta.shape)}"
            )
        return value.to(dtype=torch.float64, device=self.theta.device)

    def column(self, value: Hyper) -> Hyper:
        """Return a float64 value as a factor of theta: in its dtype, with trailing dimensions."""
        if not isinstance(value, Tensor):
            return value
        ones = (1,) * (self.theta.dim() - value.dim())
        return value.to(self.theta.dtype).reshape(value.shape + ones)

    def over(self, value: Hyper, correction: Tensor) -> Hyper:
        """Return value / correction as a factor of theta."""
        if not isinstance(value, Tensor):
            # torch computes float / tensor as float * (1 / tensor), with one more rounding.
            value = torch.full_like(correction, value)
        return self.column(value / correction)

    def average(self, key: str, x: Tensor, beta: Hyper) -> Tensor:
        """Return beta * old + (1 - beta) * x and keep it in the new state."""
        new = self.old[key] * self.column(beta) + x * self.column(1 - beta)
        self.new[key] = new
        return new

    def correction(self, key: str, beta: Hyper, weight: Hyper = 1.0) -> Tensor:
        """Return the average of ``weight`` in float64; that of the number 1 is 1 - beta^t.

        A running sum of positive terms is accurate, also for beta near 1, where the subtraction
        1 - beta^t would lose digits.
        """
        new = self.old[key] * beta + (1 - beta) * weight
        self.new[key] = new
        return new

    def clipped(self, agc: Hyper) -> Tensor:
        """Return the gradient with a norm of at most agc max(1e-3, norm of theta)."""

        def norm(x: Tensor) -> Tensor:
            squares = x.to(torch.float64).square()
            return exact_sqrt(squares.sum(self.whole, keepdim=True) if self.whole else squares)

        if isinstance(agc, Tensor):
            agc = agc.reshape(agc.shape + (1,) * (self.theta.dim() - agc.dim()))
        size = norm(self.g)
        # A gradient of 0 needs no factor, and without a division by 0 it has a derivative.
        size = torch.where(size == 0, 1.0, size)
        factor = (agc * norm(self.theta).clamp(min=1e-3) / size).clamp(max=1.0)
        return self.g * factor.to(self.g.dtype)

    def cautious(self, move: Tensor) -> Tensor:
        """Return the move with 0 where it does not agree with the gradient in sign.

        The rest is divided by the share of coordinates that agree, which counts as at least 1e-3.
        """
        agrees = (move.sign() * self.g.sign()).clamp(min=0)
        share = agrees.to(torch.float64)
        if self.whole:
            share = share.mean(self.whole, keepdim=True)
        return move * (agrees * (1 / share.clamp(min=1e-3)).to(move.dtype))

    def root(self) -> Tensor:
        r"""Return the denominator of the rule.

        .. math::
            n_t &= \nu n_{t-1} + (1-\nu) g_t^2, \quad c_n = 1-\nu^t \\
            \text{centered (B.5, from } t > t_{init} \text{ on):} \quad
            \bar n_t &= \nu \bar n_{t-1} + (1-\nu) g_t, \quad n'_t = n_t - \bar n_t^2 \\
            \text{amsgrad (B.4):} \quad \tilde n_t &= \max(\tilde n_{t-1}, n'_t) \\
            \text{denominator} &= \sqrt{n_t / c_n} + \epsilon
            \quad\text{or, as B.3-B.5 print it,}\quad \sqrt{n_t / c_n + \epsilon}

        with :math:`n'_t` or :math:`\tilde n_t` in the place of :math:`n_t` where they are in use.
        """
        g, algorithm = self.g, self.algorithm
        n = self.average("n", g * g, self.nu)
        c_n = self.column(self.correction("c_n", self.nu)) if algorithm.corrected else 1.0
        amsgrad = algorithm.amsgrad
        if algorithm.centered:
            n_bar = self.average("n_bar", g, self.nu)
            t = self.new["t"] = self.old["t"] + 1
            if int(t) > self.centered_warmup:
                # n >= n_bar^2 holds in exact arithmetic, but rounding can make the difference
                # negative, and its root NaN. If both overflow, n stays infinite.
                n = (n - (n_bar * n_bar).clamp(max=torch.finfo(n.dtype).max)).clamp(min=0)
            elif amsgrad:
                # As in the authors' code, uncentered moments do not enter the maximum.
                self.new["n_max"] = self.old["n_max"]
                amsgrad = False
        if amsgrad:
            n = self.new["n_max"] = torch.maximum(self.old["n_max"], n)
        epsilon = self.column(self.epsilon)
        n = n / c_n if algorithm.corrected else n
        root = exact_sqrt(n + epsilon) if algorithm.eps_in_sqrt else exact_sqrt(n) + epsilon
        # This floor matters only for an epsilon of (nearly) 0. For a smaller |g|, g^2 underflows,
        # and g / root would be noise or 0 / 0. With the floor, |g / root| is at most about 1, and
        # it is 0 for g = 0.
        return root.clamp(min=torch.finfo(root.dtype).tiny ** 0.5)


def _adam(s: _Step) -> Tensor:
    r"""Adam; with ``amsgrad``, AMSGrad (both with bias correction, as torch.optim.Adam).

    .. math::
        m_t = \mu m_{t-1} + (1-\mu) g_t, \qquad
        \theta_t = \theta_{t-1} - \lambda \frac{m_t}{c_m} \Big/ (\sqrt{n_t/c_n} + \epsilon)
    """
    m = s.average("m", s.g, s.mu)
    return m * s.over(s.lr, s.correction("c_m", s.mu)) / s.root()


def _rmsprop(s: _Step) -> Tensor:
    r"""RMSProp as torch.optim.RMSprop: no momentum, no bias correction.

    .. math::
        \theta_t = \theta_{t-1} - \lambda g_t / (\sqrt{n_t} + \epsilon)

    With bias correction it is Adam, and LaProp, at :math:`\mu = 0` (Table 1).
    """
    return s.g / s.root() * s.column(s.lr)


def _sgd(s: _Step) -> Tensor:
    r"""SGD with momentum as torch.optim.SGD: the momentum is a sum.

    .. math::
        m_t = \mu m_{t-1} + g_t, \qquad \theta_t = \theta_{t-1} - \lambda m_t
    """
    m = s.new["m"] = s.old["m"] * s.column(s.mu) + s.g
    return m * s.column(s.lr)


def _momentum(s: _Step) -> Tensor:
    r"""SGD whose momentum is an average with bias correction: Adam without its division (Table 1).

    .. math::
        m_t = \mu m_{t-1} + (1-\mu) g_t, \qquad \theta_t = \theta_{t-1} - \lambda m_t / c_m
    """
    m = s.average("m", s.g, s.mu)
    return m * s.over(s.lr, s.correction("c_m", s.mu))


def _signsgd(s: _Step) -> Tensor:
    r"""Signed SGD with momentum, LaProp at :math:`\nu = 0, \epsilon = 0` (Table 1, section 3).

    .. math::
        m_t = \mu m_{t-1} + (1-\mu)\,\mathrm{sgn}(g_t), \qquad
        \theta_t = \theta_{t-1} - \lambda m_t / c_m
    """
    m = s.average("m", s.g.sign(), s.mu)
    return m * s.over(s.lr, s.correction("c_m", s.mu))


def _signum(s: _Step) -> Tensor:
    r"""The other signed method (footnote 1): the sign of the averaged gradient.

    .. math::
        m_t = \mu m_{t-1} + (1-\mu) g_t, \qquad \theta_t = \theta_{t-1} - \lambda\,\mathrm{sgn}(m_t)
    """
    return s.average("m", s.g, s.mu).sign() * s.column(s.lr)


def _laprop(s: _Step) -> Tensor:
    r"""LaProp (Algorithm 1, section 2.3).

    .. math::
        m_t = \mu m_{t-1} + (1-\mu) g_t / (\sqrt{n_t/c_n} + \epsilon), \qquad
        \theta_t = \theta_{t-1} - \lambda m_t / c_m

    With ``amsgrad`` it is AmsProp (Algorithm 3, B.4), with ``centered`` centered LaProp
    (Algorithm 4, B.5). With ``lr_in_momentum`` it is LaPropW (Algorithm 2, B.3):

    .. math::
        m_t = \mu m_{t-1} + \lambda_t (1-\mu) g_t / (\sqrt{n_t/c_n} + \epsilon), \qquad
        \theta_t = (\theta_{t-1} - m_t / c_m)(1 - w_t)

    With ``lr_weighted_correction`` too, as in the authors' code, :math:`c_m` is the average of the
    learning rates (with the decay rate :math:`\mu`) divided by the present learning rate,
    :math:`(\mu\text{-average of }\lambda)/\lambda_t`. The whole momentum then counts with the
    present learning rate, and a step with :math:`\lambda_t = 0` moves nothing.
    """
    u = s.g / s.root()
    if not s.algorithm.lr_in_momentum:
        return s.average("m", u, s.mu) * s.over(s.lr, s.correction("c_m", s.mu))
    m = s.average("m", u * s.column(s.lr), s.mu)
    if not s.algorithm.lr_weighted_correction:
        return m * s.over(1.0, s.correction("c_m", s.mu))
    mean_lr = s.correction("c_m", s.mu, weight=s.lr)
    return m * s.over(s.lr, torch.where(mean_lr > 0, mean_lr, 1.0))  # 0 / 0 is 0


@dataclass(frozen=True)
class Algorithm:
    """An update rule with its variants; :meth:`init` and :meth:`step` are pure.

    Variants combine by ``dataclasses.replace(ALGORITHMS["amsprop"], centered=True)``.

    Args:
        rule: What is subtracted from theta; its docstring holds the equation.
        averages: The averages that the rule keeps: "m", "n" or "mn".
        corrected: Averages are divided by their bias corrections.
        amsgrad: The largest second moment so far is used (AMSGrad, AmsProp B.4).
        centered: The squared mean gradient is subtracted from the second moment (B.5).
        lr_in_momentum: The learning rate is inside the momentum (LaPropW, B.3).
        lr_weighted_correction: Bias correction of LaPropW as in the authors' code, not as printed.
        eps_in_sqrt: Epsilon is added under the root, as Algorithms 2 to 4 print it. Otherwise it is
            added to the root, as in Algorithm 1 and in all of the authors' code.
        cautious: Coordinates whose move is against the gradient are left out, and the others are
            divided by their share in the tensor, which counts as at least 1e-3 (arXiv 2411.16085).
    """

    rule: Callable[[_Step], Tensor]
    averages: str = "mn"
    corrected: bool = True
    amsgrad: bool = False
    centered: bool = False
    lr_in_momentum: bool = False
    lr_weighted_correction: bool = False
    eps_in_sqrt: bool = False
    cautious: bool = False

    def init(self, theta: Tensor) -> State:
        """Return the state before the first step.

        Args:
            theta: The parameters, float32 or float64, of any shape.

        Raises:
            TypeError: theta has another dtype.
        """
        if theta.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"theta has dtype {theta.dtype}; it must be float32 or float64")
        state = {key: torch.zeros_like(theta) for key in self.averages}
        for key in self.averages if self.corrected else "":
            state[f"c_{key}"] = torch.zeros((), dtype=torch.float64, device=theta.device)
        if self.amsgrad:
            state["n_max"] = torch.zeros_like(theta)
        if self.centered:
            state["n_bar"] = torch.zeros_like(theta)
            state["t"] = torch.zeros((), dtype=torch.int64, device="cpu")  # read without a sync
        return state

    def step(
        self,
        theta: Tensor,
        g: Tensor,
        state: State,
        *,
        lr: Hyper,
        mu: Hyper = 0.9,
        nu: Hyper = 0.999,
        epsilon: Hyper = 1e-15,
        weight_decay: Hyper = 0.0,
        agc: Hyper | None = None,
        centered_warmup: int = 10,
    ) -> tuple[Tensor, State]:
        r"""Return theta and the state after one step; the arguments are left as they were.

        A rule without mu, nu or epsilon ignores them, so that all rules can be called alike.

        Args:
            theta: Parameters, shape (*members, ...).
            g: Gradient, shape and dtype of theta. Where its square overflows, n becomes infinite,
                and the gradients of this coordinate count as 0 from then on. In float32 that is so
                from \|g\| = 1.8e19 on, for any nu.
            state: What :meth:`init` or the last step returned.
            lr: Learning rate, >= 0. It, and all below but centered_warmup, may be a tensor of shape
                members.
            mu: Decay rate of the momentum, in [0, 1).
            nu: Decay rate of the second moment, in [0, 1).
            epsilon: Added to the root of the second moment, >= 0.
            weight_decay: w of Algorithm 2, in [0, 1]: theta is multiplied by 1 - w after the step.
            agc: Adaptive gradient clipping: the norm of g is made at most agc times the norm of
                theta, which counts as at least 1e-3. Norms are taken over all dimensions but the
                members', which are the dimensions that the hyper-parameters have. The last bit of
                a norm, a sum over many numbers, may depend on the layout in memory and therefore
                on the size of the batch.
            centered_warmup: t_init of the centered rules: the number of first steps without
                centering, 10 in the authors' code.

        Raises:
            ValueError: g differs from theta in shape or dtype; or a hyper-parameter is a float out
                of its range, or a tensor of a shape that theta's does not begin with. The values
                of a tensor are not checked, because reading them would wait for its device.
            TypeError: A hyper-parameter is neither a number nor a tensor.
        """
        s = _Step(self, theta, g, state, lr, mu, nu, epsilon, weight_decay, agc, centered_warmup)
        move = self.rule(s)
        theta = theta - (s.cautious(move) if self.cautious else move)
        if isinstance(s.weight_decay, Tensor) or s.weight_decay != 0:
            theta = theta * s.column(1 - s.weight_decay)
        return theta, s.new


ALGORITHMS: dict[str, Algorithm] = {
    "adam": Algorithm(_adam),
    "amsgrad": Algorithm(_adam, amsgrad=True),
    "rmsprop": Algorithm(_rmsprop, averages="n", corrected=False),
    "sgd": Algorithm(_sgd, averages="m", corrected=False),
    "momentum": Algorithm(_momentum, averages="m"),
    "signsgd": Algorithm(_signsgd, averages="m"),
    "signum": Algorithm(_signum, averages="m", corrected=False),
    "laprop": Algorithm(_laprop),
    "lapropw": Algorithm(_laprop, lr_in_momentum=True),
    "laprop_printed": Algorithm(_laprop, lr_in_momentum=True, eps_in_sqrt=True),
    "amsprop": Algorithm(_laprop, amsgrad=True),
    "centered": Algorithm(_laprop, centered=True),
}
"""The update rules by name. The command line offers all of them but ``momentum`` and ``lapropw``.

``laprop`` is Algorithm 1, with the learning rate outside the momentum. ``lapropw`` is Algorithm 2
with epsilon outside the root; ``laprop_printed`` has it under the root. The default options of
:class:`laprop.LaProp` are another rule: ``lapropw`` with ``lr_weighted_correction=True``.
"""
