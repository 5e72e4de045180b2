"""The noisy Rosenbrock function (paper 5.1 and C.2; Figures 2 and 8, and rosenbrock_bias).

A vectorised task: optimizer.lr, mu, nu, epsilon, task.sigma and seed may be lists, and all their
combinations train as one tensor program. Members with the same seed see the same noise, scaled by
their sigma, so that settings are compared on the same randomness. A member's path does not depend
on the other members.
"""

from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, Gt, MultipleOf
from scipy.optimize import brentq
from torch import Tensor

from experiments.common.run import Run
from experiments.common.schema import Axis, settings

AXES = (
    "task.sigma",
    "optimizer.lr",
    "optimizer.mu",
    "optimizer.epsilon",
    "optimizer.nu",
    "seed",
)
VERSION = 1  # raise it when the same settings give other numbers
UPDATES_PER_STEP = 100  # updates in each of run.steps, between which checkpoints are possible


@settings
class Config:
    """``(1 - (x + e1))^2 + 100 ((y + e2) - (x + e1)^2)^2`` with fresh noise e1, e2 each update.

    Attributes:
        sigma: the paper's noise level.
        noise: the meaning of sigma: ``halfwidth`` draws e1, e2 from Uniform(-sigma, sigma) as the
            paper says, ``width`` from Uniform(-sigma/2, sigma/2). At sigma 0.1 only ``width`` lets
            Adam and AMSGrad converge at large nu, as in the paper's Figure 2. But AMSGrad then
            converges at small nu too, where that figure shows no curve of it.
        updates: largest number of updates; a multiple of 100.
        start: (x, y).
        converged_below: a member has converged at the first update after which its loss without
            noise is below this; the paper does not say whether it has to stay there.
        mean_over: number of last updates of which three means are kept: the position, the share of
            positions whose loss without noise is below ``converged_below``, and the expected loss
            with noise; with 0 none is kept, and members stop once they have converged.
    """

    sigma: Axis[Annotated[float, Ge(0)]]
    noise: Literal["halfwidth", "width"]
    updates: Annotated[int, Gt(0), MultipleOf(UPDATES_PER_STEP)]
    start: tuple[float, float]
    converged_below: Annotated[float, Gt(0)]
    mean_over: Annotated[int, Ge(0)]

    def __post_init__(self) -> None:
        if self.mean_over > self.updates:
            raise ValueError(
                f"task.mean_over={self.mean_over}: must be at most task.updates={self.updates}"
            )


def updates(cfg: Config) -> int:
    """Number of updates of a run that does not end early."""
    return cfg.updates


def loss(theta: Tensor) -> Tensor:
    """The Rosenbrock function without noise; theta (B, 2) to (B,)."""
    x, y = theta.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x * x) ** 2


def gradient(theta: Tensor) -> Tensor:
    """The gradient of ``loss``, (B, 2) to (B, 2); at theta + e it is that of the noisy loss."""
    x, y = theta.unbind(-1)
    valley = 200 * (y - x * x)
    return torch.stack([-2 * (1 - x) - 2 * x * valley, valley], -1)


def expected_loss(theta: Tensor, h: Tensor) -> Tensor:
    """The mean of ``loss(theta + e)`` over e uniform on (-h, h)^2; theta (B, 2), h (B,) to (B,)."""
    x, y = theta.unbind(-1)
    v = h**2 / 3  # variance of e1 and of e2
    valley = (y - x * x - v) ** 2 + (1 + 4 * x * x) * v + 4 * h**4 / 45
    return (1 - x) ** 2 + v + 100 * valley


def train(cfg: Config, run: Run) -> None:
    """Count updates until convergence, for every member at once."""
    grid, algorithm = run.grid, run.algorithm
    halfwidth = grid["task.sigma"].float() / (1 if cfg.noise == "halfwidth" else 2)
    seeds, stream = grid.codes("seed")
    generators = [run.generator("noise", seed) for seed in seeds]

    theta = torch.tensor(cfg.start, device=run.device).repeat(len(grid), 1)
    carry: dict[str, Any] = {
        "theta": theta,
        "state": algorithm.init(theta),
        "first": torch.full((len(grid),), -1, device=run.device),  # update of convergence
        # Of the last positions: their sum, how many are near, and the sum of their expected losses.
        "sum": torch.zeros_like(theta, dtype=torch.float64),
        "near": torch.zeros(len(grid), dtype=torch.int64, device=run.device),
        "expected": torch.zeros(len(grid), dtype=torch.float64, device=run.device),
    }
    run.track(carry=carry)
    for step in run.steps(cfg.updates // UPDATES_PER_STEP):
        unit = torch.stack(
            [torch.rand(UPDATES_PER_STEP, 2, generator=g) for g in generators], 1
        ).to(run.device)
        noise = (2 * unit - 1).unbind(0)
        theta, state, first = carry["theta"], carry["state"], carry["first"]
        for i in range(UPDATES_PER_STEP):
            update = step * UPDATES_PER_STEP + i + 1
            e = noise[i][stream] * halfwidth[:, None]
            g = gradient(theta + e)
            theta, state = algorithm.step(theta, g, state, **run.hyper(update - 1))
            near = loss(theta) < cfg.converged_below
            first = torch.where(near & (first < 0), update, first)
            if update > cfg.updates - cfg.mean_over:
                carry["sum"] += theta
                carry["near"] += near
                carry["expected"] += expected_loss(theta.double(), halfwidth.double())
        carry |= {"theta": theta, "state": state, "first": first}
        if not cfg.mean_over and bool((first >= 0).all()):
            break
    first = carry["first"].double()
    run.summary(steps_to_converge=torch.where(first < 0, torch.nan, first))
    if cfg.mean_over:
        mean = carry["sum"] / cfg.mean_over
        near = carry["near"].double() / cfg.mean_over
        expected = carry["expected"] / cfg.mean_over
        run.summary(x_mean=mean[:, 0], y_mean=mean[:, 1], near_share=near, expected_loss=expected)
        run.table("fixed_points", fixed_points(sorted(set(grid["task.sigma"].tolist())), cfg.noise))


# The points to which the noise leads --------------------------------------------------------------


def fixed_points(sigmas: list[float], noise: str) -> pd.DataFrame:
    """For each sigma, the point of mean gradient 0 and the point where its sign has the mean 0.

    With e1, e2 uniform on (-h, h) the minimum of :func:`expected_loss` is at
    ``x = 1 / (1 + 400 h^2/3)``, ``y = x^2 + h^2/3``. The sign of the gradient has the mean 0 where
    both components are positive half of the time; quadrature finds that point.

    Returns:
        columns noise, sigma, point (``mean gradient``, ``mean sign``), x, y, loss (without noise).
    """
    rows = []
    for sigma in sigmas:
        h = sigma if noise == "halfwidth" else sigma / 2
        x = 1 / (1 + 400 * h**2 / 3)
        points = {"mean gradient": (x, x**2 + h**2 / 3), "mean sign": sign_zero(h)}
        for point, (x, y) in points.items():
            value = float(loss(torch.tensor([[x, y]], dtype=torch.float64)))
            rows.append(
                {"noise": noise, "sigma": sigma, "point": point, "x": x, "y": y, "loss": value}
            )
    return pd.DataFrame(rows)


def sign_zero(h: float) -> tuple[float, float]:
    """The point (x, y) where the signs of both gradient components have the mean 0.

    For a given e1 each component is monotone in e2, so the mean over e2 is exact, and only the mean
    over e1 needs quadrature.

    Args:
        h: half-width of the noise.
    """
    if h == 0:
        return 1.0, 1.0
    nodes = 2001  # midpoints of the quadrature
    e1 = h * (2 * (np.arange(nodes) + 0.5) / nodes - 1)

    def mean_sign_y(x: float, y: float) -> float:
        # d/dy > 0 where e2 > (x + e1)^2 - y
        return float(-np.clip(((x + e1) ** 2 - y) / h, -1, 1).mean())

    def mean_sign_x(x: float, y: float) -> float:
        # d/dx = -2 (1 - a) - 400 a (y + e2 - a^2), a = x + e1, falls with e2 where a > 0
        a = x + e1
        with np.errstate(divide="ignore", invalid="ignore"):
            root = a**2 - y - (1 - a) / (200 * a)
        value = np.sign(a) * np.clip(root / h, -1, 1)
        return float(np.where(a == 0, -1.0, value).mean())

    def valley(x: float) -> float:
        reach = (abs(x) + h) ** 2 + h
        return float(brentq(lambda y: mean_sign_y(x, y), -reach, reach, xtol=1e-12))

    x = float(brentq(lambda x: mean_sign_x(x, valley(x)), 0.05, 1.5, xtol=1e-10))
    return x, valley(x)
