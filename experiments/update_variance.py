"""Variance of one update on random gradients, as nu goes to 0 (section 3.1, equation 8).

Gradients are independent standard normal numbers. Adam divides a momentum over many gradients by
the size of a few. At nu = 0 it divides by the size of the last gradient alone, which is sometimes
near 0, so the variance is infinite for every mu above 0. LaProp first divides each gradient by its
own size, and its variance stays bounded. The variance is measured over coordinates and updates, and
recorded beside its exact value, see :func:`exact`. The learning rate is 1.

A vectorised task in float64. Members with the same seed see the same gradients.
"""

import math
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt

from experiments.common.run import Run
from experiments.common.schema import settings
from experiments.common.settings import updates_in_units_of_lr
from laprop.functional import ALGORITHMS

VERSION = 1  # raise it when the same settings give other numbers
AXES = ("optimizer.mu", "optimizer.nu", "seed")
OPTIMIZERS = ("adam", "laprop")
OPTIONS: tuple[str, ...] = ()  # the rules have no options here
SCHEDULED = False
UPDATES_PER_STEP = 100  # updates in each of run.steps, between which checkpoints are possible


@settings
class Config:
    """Updates on random gradients.

    Attributes:
        coordinates: number of independent coordinates of a member.
        settling: hundreds of updates that are not measured, until m and n are steady.
        counted: hundreds of updates that are measured.
    """

    coordinates: Annotated[int, Gt(0)]
    settling: Annotated[int, Gt(0)]
    counted: Annotated[int, Gt(0)]


def exact(name: str, mu: float, nu: float) -> float:
    """Variance of an update in the steady state, for independent standard normal gradients.

    Derived here. With w_j = (1-nu) nu^j and n = sum_j w_j g_j^2, where g_j is the gradient of j
    updates ago, 1/n = integral of exp(-s n) over s > 0, and the mean over normal g of
    g_k^2 exp(-s n) is (1 + 2 s w_k)^-1 P(s) with P(s) = product_j (1 + 2 s w_j)^-1/2, so that

        E[g_k^2 / n] = integral of P(s) / (1 + 2 s w_k) over s > 0.

    Signs are independent of sizes, hence products of different gradients have mean 0 and

        Adam:    Var = (1-mu)^2 sum_k mu^(2k) E[g_k^2 / n]
        LaProp:  Var = (1-mu)/(1+mu) E[g_0^2 / n], at most (1-mu)/(1+mu)/(1-nu).

    For nu to 0, E[g_1^2 / n] grows as 1/sqrt(nu), and so does Adam's variance.

    Args:
        name: adam or laprop.
        mu: decay of the momentum, in [0, 1).
        nu: decay of the second moment: 0, or from 1e-8 to 0.99, the range that the nodes of the
            quadrature resolve.

    Returns:
        the variance, in squared learning rates; infinity for Adam at nu = 0 and mu > 0.
    """
    if nu == 0:
        return math.inf if name == "adam" and mu > 0 else (1 - mu) / (1 + mu)
    w = (1 - nu) * nu ** np.arange(2000.0)  # later weights are below 2e-9 of the first
    # The integrand falls faster than any power of s: the trapezoid rule in log s is nearly exact.
    nodes = np.linspace(-40, 92, 2641)
    s = np.exp(nodes)
    weighted, powers = np.zeros_like(s), mu ** (2 * np.arange(2000.0))
    product = np.zeros_like(s)  # its logarithm
    for w_k, power in zip(w, powers, strict=True):
        weighted += power / (1 + 2 * s * w_k)
        product -= 0.5 * np.log1p(2 * s * w_k)
    measure = s * np.exp(product) * (nodes[1] - nodes[0])
    if name == "laprop":
        return float((1 - mu) / (1 + mu) * (measure / (1 + 2 * s * w[0])).sum())
    return float((1 - mu) ** 2 * (measure * weighted).sum())


check = updates_in_units_of_lr


def train(cfg: Config, run: Run) -> None:
    """Feed random gradients; keep the mean square of the updates."""
    name, grid = run.config.optimizer.name, run.grid
    mu, nu = grid["optimizer.mu"], grid["optimizer.nu"]
    of = run.config.optimizer
    hyper = {"lr": of.lr, "mu": mu, "nu": nu, "epsilon": of.epsilon}
    algorithm = ALGORITHMS[name]
    seeds, stream = grid.codes("seed")
    generators = [run.generator("gradients", seed) for seed in seeds]
    shape = (len(grid), cfg.coordinates)
    origin = torch.zeros(shape, dtype=torch.float64, device=run.device)
    zeros = torch.zeros(len(grid), dtype=torch.float64, device=run.device)
    carry: dict[str, Any] = {"state": algorithm.init(origin), "squares": zeros, "largest": zeros}
    run.track(carry=carry)
    for step in run.steps(cfg.settling + cfg.counted):
        for _ in range(UPDATES_PER_STEP):
            size = (cfg.coordinates,)
            drawn = [torch.randn(size, generator=g, dtype=torch.float64) for g in generators]
            g = torch.stack(drawn).to(run.device)[stream]
            update, carry["state"] = algorithm.step(origin, g, carry["state"], **hyper)
            if step >= cfg.settling:
                carry["squares"] = carry["squares"] + update.square().mean(1)
                carry["largest"] = torch.maximum(carry["largest"], update.abs().amax(1))
        if step >= cfg.settling:
            counted = (step + 1 - cfg.settling) * UPDATES_PER_STEP
            variance = carry["squares"] / counted  # the mean is 0 by symmetry
            run.log(counted, variance=variance)
            run.summary(variance=variance, largest_update=carry["largest"])
    pairs = zip(mu.tolist(), nu.tolist(), strict=True)
    run.summary(variance_exact=[exact(name, m, n) for m, n in pairs])
