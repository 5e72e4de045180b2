"""The noisy Rosenbrock function: its noise, gradient, counting and resting places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Maker, assert_refused, trained
from scipy.optimize import minimize

from experiments.common.run import _seed_of
from experiments.rosenbrock import UPDATES_PER_STEP, fixed_points


def rosenbrock(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def mean_over_noise(x: float, y: float, half_width: float) -> float:
    """The expected loss as a mean over midpoints, which is exact but for 1 / nodes^2."""
    nodes = half_width * (2 * (np.arange(400) + 0.5) / 400 - 1)
    e1, e2 = np.meshgrid(nodes, nodes)
    return rosenbrock(x + e1, y + e2).mean()


def by_hand(half_width: float, below: float, last: int) -> tuple[int, np.ndarray, float]:
    """LaProp (Algorithm 1) in float64 at lr 0.01, mu 0.9, nu 0.6, from (0, 0), with seed 3.

    Returns:
        the update of the first loss below a limit, the last positions, and the share of these
        whose loss is below the limit.
    """
    generator = torch.Generator().manual_seed(_seed_of("3", "noise"))
    noise = (2 * torch.rand(UPDATES_PER_STEP, 2, generator=generator) - 1) * half_width
    theta, n, m = torch.zeros(2, dtype=torch.float64), torch.zeros(2), torch.zeros(2)
    first, path = 0, []
    for t, e in enumerate(noise.double(), 1):
        at = (theta + e).requires_grad_()
        ((1 - at[0]) ** 2 + 100 * (at[1] - at[0] ** 2) ** 2).backward()
        n = 0.6 * n + 0.4 * at.grad**2
        m = 0.9 * m + 0.1 * at.grad / ((n / (1 - 0.6**t)).sqrt() + 1e-15)
        theta = theta - 0.01 * m / (1 - 0.9**t)
        if not first and rosenbrock(*theta.numpy()) < below:
            first = t
        path.append(theta)
    end = torch.stack(path[-last:]).numpy()
    return first, end, float((rosenbrock(*end.T) < below).mean())


@pytest.mark.parametrize(("noise", "half_width"), [("halfwidth", 0.1), ("width", 0.05)])
def test_a_run_is_the_textbook_loop(make: Maker, noise: str, half_width: float) -> None:
    run = make(
        "task=rosenbrock", "optimizer=laprop", "optimizer.lr=0.01", "optimizer.mu=0.9",
        "optimizer.nu=0.6", "optimizer.epsilon=1e-15", "seed=3", "task.sigma=0.1",
        f"task.noise={noise}", f"task.updates={UPDATES_PER_STEP}", "task.mean_over=90",
        "task.converged_below=0.8",
    )  # fmt: skip
    found = trained(run)
    first, end, near = by_hand(half_width, below=0.8, last=90)
    assert 1 < first < UPDATES_PER_STEP
    assert 0 < near < 1
    assert found["near_share"] == [near]
    assert found["steps_to_converge"] == [first]
    assert [*found["x_mean"], *found["y_mean"]] == pytest.approx(end.mean(0), rel=1e-3)
    expected = np.mean([mean_over_noise(*at, half_width) for at in end])
    assert found["expected_loss"] == pytest.approx([expected], rel=1e-3)


@pytest.mark.parametrize(("noise", "half_width"), [("halfwidth", 0.1), ("width", 0.05)])
def test_the_mean_gradient_is_0_where_the_expected_loss_is_lowest(
    noise: str, half_width: float
) -> None:
    lowest = minimize(lambda at: mean_over_noise(*at, half_width), (0.5, 0.3), tol=1e-12)
    points = fixed_points([0.1], noise).set_index("point")
    assert points.loc["mean gradient", ["x", "y"]].tolist() == pytest.approx(lowest.x, rel=1e-3)


def test_what_would_give_wrong_means_is_refused(make: Maker) -> None:
    common = ("task=rosenbrock", "task.updates=400")
    assert_refused(make, *common, "task.mean_over=500", allowed="at most task.updates=400")
    assert_refused(make, *common, "seed=[0,0,1]", allowed="only once")
    assert_refused(make, *common, "optimizer.nu=[0.5,0.5]", allowed="only once")
