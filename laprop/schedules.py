r"""Schedules for mu and nu, beside torch.optim.lr_scheduler's for the learning rate.

The paper recommends a small :math:`\nu` where gradients are noisy (section 3.2) and leaves
schedules of :math:`\nu` as an open question (B.2). These classes follow the conventions of torch's
schedulers. They take an optimizer whose param groups have ``betas`` (LaProp, torch.optim.Adam, ...)
and set the first value at once. Call ``step()`` after ``optimizer.step()``, once per update or once
per epoch. ``last_epoch`` counts the calls; ``state_dict()`` and ``load_state_dict()`` save and
restore a schedule. Schedules of mu, of nu and of lr can be used together::

    optimizer = LaProp(model.parameters(), lr=1e-3, betas=(0.9, 0.7))
    schedule = RaiseBeta(optimizer, "nu", end=0.999, milestone=5_000, total_iters=2_000)

Each value is computed from ``last_epoch`` alone, so no rounding errors accumulate. LaProp's bias
corrections stay exact when betas change; torch.optim.Adam's, which are powers of the present beta,
do not.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = [
    "BetaScheduler",
    "ConstantBeta",
    "CosineBeta",
    "LinearBeta",
    "RaiseBeta",
    "StepBeta",
    "cosine",
    "linear",
    "raised",
]

Beta = Literal["mu", "nu"]
T = TypeVar("T", float, Tensor)


def linear(initial: T, end: float, progress: float) -> T:
    r"""Return :math:`\beta_{initial} + (\beta_{end} - \beta_{initial}) s`.

    Args:
        initial: The value at a progress of 0; a tensor holds the values of several trainings.
        end: The value at a progress of 1.
        progress: s in [0, 1].
    """
    return initial + (end - initial) * progress


def cosine(initial: T, end: float, progress: float) -> T:
    r"""Return :func:`linear` with :math:`(1 - \cos \pi s) / 2` in the place of s: half a cosine.

    Args:
        initial: The value at a progress of 0; a tensor holds the values of several trainings.
        end: The value at a progress of 1.
        progress: s in [0, 1].
    """
    return linear(initial, end, (1 - math.cos(math.pi * progress)) / 2)


def raised(initial: T, end: float, progress: float) -> T:
    r"""Return :math:`1 - (1-\beta_{initial})^{1-s} (1-\beta_{end})^s`.

    Args:
        initial: The value at a progress of 0; a tensor holds the values of several trainings.
        end: The value at a progress of 1.
        progress: s in [0, 1].
    """
    value: T = 1 - (1 - initial) ** (1 - progress) * (1 - end) ** progress
    return value


class BetaScheduler:
    """Base of the schedules: a subclass gives the value for ``last_epoch`` in :meth:`get_beta`.

    Args:
        optimizer: An optimizer whose param groups have ``betas``.
        beta: Which of the two is scheduled: "mu" (``betas[0]``) or "nu" (``betas[1]``).
        last_epoch: Number of the last call of ``step()``; -1 to begin.

    Raises:
        TypeError: ``optimizer`` is not an Optimizer.
        ValueError: ``beta`` is neither "mu" nor "nu", or a param group has no ``betas``.
        KeyError: ``last_epoch`` is not -1, but a group lacks its first values, ``initial_betas``.
    """

    def __init__(self, optimizer: Optimizer, beta: Beta, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        if beta not in ("mu", "nu"):
            raise ValueError(f"beta: {beta!r} (allowed: 'mu', 'nu')")
        for i, group in enumerate(optimizer.param_groups):
            if "betas" not in group:
                raise ValueError(
                    f"{type(optimizer).__name__} has no betas in param_groups[{i}] to schedule"
                )
            if last_epoch == -1:
                # Floats, because the step changes a tensor beta in place.
                group.setdefault("initial_betas", tuple(float(b) for b in group["betas"]))
            elif "initial_betas" not in group:
                raise KeyError(
                    f"'initial_betas' is not in param_groups[{i}]; to resume with last_epoch="
                    f"{last_epoch}, load the optimizer's state_dict first"
                )
        self.optimizer = optimizer
        self.beta = beta
        self.last_epoch = last_epoch
        self.step()

    def get_beta(self, initial: float) -> float:
        """Return the value for ``last_epoch`` of a group that began with ``initial``."""
        raise NotImplementedError

    def get_last_beta(self) -> list[float]:
        """Return the present value of each param group."""
        index = self._index
        return [float(group["betas"][index]) for group in self.optimizer.param_groups]

    def step(self) -> None:
        """Advance by one and set the new values.

        Tensor betas are filled in place, with a number below 1 also where rounding would give 1.
        """
        self.last_epoch += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimizer."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, and set the values of its ``last_epoch``.

        The optimizer's state may be loaded before or after it.
        """
        self.__dict__.update(state_dict)
        self._set()

    def _set(self) -> None:
        """Set the values for ``last_epoch`` in the optimizer's groups."""
        index = self._index
        for group in self.optimizer.param_groups:
            # A group that was added after this schedule began starts with its own betas.
            initial = group.setdefault("initial_betas", tuple(map(float, group["betas"])))
            value = self.get_beta(initial[index])
            betas = list(group["betas"])
            if isinstance(betas[index], Tensor):
                # In float32 the values nearest to 1 would be rounded to it.
                below_1 = 1 - torch.finfo(betas[index].dtype).eps / 2
                betas[index].fill_(min(value, below_1))
            else:
                betas[index] = value
                group["betas"] = tuple(betas)

    @property
    def _index(self) -> int:
        return ("mu", "nu").index(self.beta)


def _in_range(name: str, value: float) -> float:
    try:
        allowed = 0 <= value < 1
    except TypeError:
        allowed = False
    if not allowed:
        raise ValueError(f"{name}: {value!r} (allowed: 0 <= {name} < 1)")
    return value


def _count(name: str, value: int) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name}: {value!r} (allowed: an integer >= 0)")
    return int(value)


class ConstantBeta(BetaScheduler):
    r"""``value`` for the first ``total_iters`` calls, then the group's own value.

    .. math:: \beta_t = \text{value} \text{ for } t < T, \text{ then } \beta_{initial}

    Args:
        optimizer: An optimizer whose param groups have ``betas``.
        beta: "mu" or "nu".
        value: The value to begin with, in [0, 1).
        total_iters: T, the number of calls of ``step()`` for which it holds.
        last_epoch: Number of the last call of ``step()``; -1 to begin.
    """

    def __init__(
        self, optimizer: Optimizer, beta: Beta, value: float, total_iters: int, last_epoch: int = -1
    ) -> None:
        self.value = _in_range("value", value)
        self.total_iters = _count("total_iters", total_iters)
        super().__init__(optimizer, beta, last_epoch)

    def get_beta(self, initial: float) -> float:
        """Return the value for ``last_epoch``."""
        return self.value if self.last_epoch < self.total_iters else initial


class StepBeta(BetaScheduler):
    """The group's own value, then ``values[i]`` from call number ``milestones[i]`` on.

    Args:
        optimizer: An optimizer whose param groups have ``betas``.
        beta: "mu" or "nu".
        milestones: Numbers of calls, increasing.
        values: One value in [0, 1) for each milestone.
        last_epoch: Number of the last call of ``step()``; -1 to begin.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        beta: Beta,
        milestones: Iterable[int],
        values: Iterable[float],
        last_epoch: int = -1,
    ) -> None:
        self.milestones = [_count("milestones", milestone) for milestone in milestones]
        self.values = [_in_range("values", value) for value in values]
        if len(self.values) != len(self.milestones) or self.milestones != sorted(
            set(self.milestones)
        ):
            raise ValueError(
                f"milestones: {self.milestones}, values: {self.values} "
                "(allowed: increasing milestones, and one value for each)"
            )
        super().__init__(optimizer, beta, last_epoch)

    def get_beta(self, initial: float) -> float:
        """Return the value for ``last_epoch``."""
        passed = bisect.bisect_right(self.milestones, self.last_epoch)
        return self.values[passed - 1] if passed else initial


class LinearBeta(BetaScheduler):
    r"""A straight line from the group's own value to ``end``.

    .. math:: \beta_t = \beta_{initial} + (\beta_{end} - \beta_{initial}) \min(t / T, 1)

    Args:
        optimizer: An optimizer whose param groups have ``betas``.
        beta: "mu" or "nu".
        end: The last value, in [0, 1).
        total_iters: T, the number of calls of ``step()`` that lead there.
        last_epoch: Number of the last call of ``step()``; -1 to begin.
    """

    def __init__(
        self, optimizer: Optimizer, beta: Beta, end: float, total_iters: int, last_epoch: int = -1
    ) -> None:
        self.end = _in_range("end", end)
        self.total_iters = _count("total_iters", total_iters)
        super().__init__(optimizer, beta, last_epoch)

    def get_beta(self, initial: float) -> float:
        """Return the value for ``last_epoch``."""
        if self.last_epoch >= self.total_iters:
            return self.end
        return self.interpolate(initial, self.last_epoch / self.total_iters)

    def interpolate(self, initial: float, progress: float) -> float:
        """Return the value at a progress in [0, 1)."""
        return linear(initial, self.end, progress)


class CosineBeta(LinearBeta):
    r"""Half a cosine from the group's own value to ``end``.

    .. math::
        \beta_t = \beta_{end} + (\beta_{initial} - \beta_{end})
        (1 + \cos(\pi \min(t / T, 1))) / 2

    Args:
        optimizer: An optimizer whose param groups have ``betas``.
        beta: "mu" or "nu".
        end: The last value, in [0, 1).
        total_iters: T, the number of calls of ``step()`` that lead there.
        last_epoch: Number of the last call of ``step()``; -1 to begin.
    """

    def interpolate(self, initial: float, progress: float) -> float:
        """Return the value at a progress in [0, 1)."""
        return cosine(initial, self.end, progress)


class RaiseBeta(BetaScheduler):
    r"""The group's own value at first, raised (or lowered) to ``end`` later on.

    .. math::
        1-\beta_t = (1-\beta_{initial})^{1-s} (1-\beta_{end})^s, \qquad
        s = \mathrm{clip}((t - t_0) / T, 0, 1)

    The averaging time :math:`1/(1-\beta)` changes by the same factor at each call, which suits
    values near 1. Use a small nu while gradients change fast, and a large one to settle (sections
    3.2, B.2).

    Args:
        optimizer: An optimizer whose param groups have ``betas``.
        beta: "mu" or "nu".
        end: The last value, in [0, 1).
        milestone: t_0, the number of calls of ``step()`` before the change begins.
        total_iters: T, the number of calls that the change takes; 0 for a jump.
        last_epoch: Number of the last call of ``step()``; -1 to begin.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        beta: Beta,
        end: float,
        milestone: int,
        total_iters: int = 0,
        last_epoch: int = -1,
    ) -> None:
        self.end = _in_range("end", end)
        self.milestone = _count("milestone", milestone)
        self.total_iters = _count("total_iters", total_iters)
        super().__init__(optimizer, beta, last_epoch)

    def get_beta(self, initial: float) -> float:
        """Return the value for ``last_epoch``."""
        elapsed = self.last_epoch - self.milestone
        if elapsed < 0:
            return initial
        if elapsed >= self.total_iters:
            return self.end
        s = elapsed / self.total_iters
        return raised(initial, self.end, s)
