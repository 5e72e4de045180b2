"""What Adam and LaProp become in the limits of mu and nu (Table 1, section 3), measured.

Softmax regression on MNIST at 14 x 14 pixels (means of 2 x 2), minibatches, float64. A member
stands at a small ``task.distance`` from a limit and runs beside the method that it should become,
on the same minibatches, each with the gradients of its own path. What counts is the distance of
the two paths.

=============  ==============================  ==================================================
``limit``      hyper-parameters at distance e  should become
=============  ==============================  ==================================================
``mu_0``       mu = e                          RMSProp with the same nu
``nu_0``       nu = e                          signed SGD with momentum mu
``both_0``     mu = nu = e                     signed SGD
``nu_1``       nu = 1 - e, from a warm n       SGD with momentum mu, each coordinate's lr / sqrt(n)
``nu_1_cold``  nu = 1 - e, from n = 0          itself, with n the mean of all squared gradients
``mu_1``       mu = 1 - e                      itself, with m the mean over all steps
=============  ==============================  ==================================================

A mean over all steps is an average with the decay 1 - 1/t, so that each of these methods is one of
laprop.functional's, too.
"""

from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from experiments.common import data
from experiments.common.config import Axis, settings
from experiments.common.run import Run
from laprop.functional import ALGORITHMS, State

AXES = ("task.distance", "seed")


@settings
class Config:
    """A limit of Adam or LaProp on softmax regression.

    Attributes:
        limit: see the module.
        distance: e, how far from the limit the hyper-parameter stands.
        updates: length of the paths.
        batch_size: images in a minibatch, drawn with replacement.
        warmup: minibatches at the start whose mean squared gradient is the warm n of ``nu_1``.
        log_every: updates.
    """

    limit: Literal["mu_0", "nu_0", "both_0", "nu_1", "nu_1_cold", "mu_1"]
    distance: Axis[Annotated[float, Gt(0)]]
    updates: Annotated[int, Gt(0)]
    batch_size: Annotated[int, Gt(0)]
    warmup: Annotated[int, Gt(0)]
    log_every: Annotated[int, Gt(0)]


def loss_and_gradient(theta: Tensor, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of softmax regression and its gradient.

    Args:
        theta: weights, (B, d, 10).
        x: features, (B, batch, d).
        labels: (B, batch).

    Returns:
        shapes (B,) and (B, d, 10).
    """
    log_p = torch.bmm(x, theta).log_softmax(-1)
    chosen = labels[..., None]
    loss = -log_p.gather(-1, chosen).mean((-2, -1))
    residual = log_p.exp().scatter_add(-1, chosen, -torch.ones_like(log_p[..., :1]))
    return loss, torch.bmm(x.mT, residual) / x.shape[1]


def becomes(limit: str, name: str) -> str:
    """Name of the rule that an optimizer should become in a limit.

    RMSProp with bias correction, as both have it, is Adam at mu = 0: see :func:`limiting`.
    """
    limits = {"mu_0": "adam", "nu_0": "signsgd", "both_0": "signsgd", "nu_1": "momentum"}
    return limits.get(limit, name)


def approaching(limit: str, e: Tensor, mu: float, nu: float) -> dict[str, Tensor | float]:
    """Decay rates at distance e (B,) from a limit."""
    mu_e = {"mu_0": e, "both_0": e, "mu_1": 1 - e}.get(limit, mu)
    nu_e = {"nu_0": e, "both_0": e, "nu_1": 1 - e, "nu_1_cold": 1 - e}.get(limit, nu)
    return {"mu": mu_e, "nu": nu_e}


def limiting(limit: str, t: int, mu: float, nu: float) -> dict[str, float]:
    """Decay rates at update t (from 1) of what the limit should become."""
    mean = 1 - 1 / t
    return {
        "mu": {"mu_0": 0.0, "both_0": 0.0, "mu_1": mean}.get(limit, mu),
        "nu": mean if limit == "nu_1_cold" else nu,
    }


def warm(state: State, n: Tensor) -> State:
    """A state whose second moment is n (B, d, 10), without bias correction."""
    return state | {"n": n, "c_n": torch.ones_like(state["c_n"])}


def train(cfg: Config, run: Run) -> None:
    """Run both methods side by side; keep their distance."""
    name, grid, optimizer = run.config.optimizer.name, run.grid, run.config.optimizer
    lr, mu, nu, epsilon = (float(getattr(optimizer, k)) for k in ("lr", "mu", "nu", "epsilon"))
    near, limit = ALGORITHMS[name], ALGORITHMS[becomes(cfg.limit, name)]
    rates = approaching(cfg.limit, grid["task.distance"], mu, nu)
    (images, labels), _ = data.mnist(run.device)
    pixels = torch.nn.functional.avg_pool2d(images.view(-1, 1, 28, 28).double() / 255, 2).flatten(1)
    x = torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1)
    seeds, stream = grid.codes("seed")
    generators = [run.generator("batches", seed) for seed in seeds]

    def draw() -> tuple[Tensor, Tensor]:
        """A minibatch for each seed: features (S, batch, d) and labels (S, batch)."""
        shape = (cfg.batch_size,)
        rows = torch.stack([torch.randint(len(x), shape, generator=g) for g in generators])
        rows = rows.to(run.device)
        return x[rows], labels[rows]

    origin = torch.zeros(len(seeds), x.shape[1], 10, dtype=torch.float64, device=run.device)
    lr_limit: Tensor | float = lr
    states = {"near": near.init(origin[stream]), "limit": limit.init(origin)}
    if cfg.limit == "nu_1":
        squares = (loss_and_gradient(origin, *draw())[1] ** 2 for _ in range(cfg.warmup))
        n = sum(squares, torch.zeros_like(origin)) / cfg.warmup
        # Pixels that the warm-up hardly saw: n near 0 would freeze them at a huge step.
        n = n.clamp(min=float(n.mean()) / 100)
        states["near"] = warm(states["near"], n[stream])
        lr_limit = lr / (n.sqrt() + epsilon)
    carry: dict[str, Any] = {
        "near": origin[stream],
        "limit": origin,
        "states": states,
        "farthest": torch.zeros(len(grid), dtype=torch.float64, device=run.device),
        "reach": torch.zeros(len(seeds), dtype=torch.float64, device=run.device),
        "largest": torch.zeros(len(grid), dtype=torch.float64, device=run.device),
    }
    run.track(carry=carry)

    def losses() -> dict[str, Tensor]:
        """On the last minibatch, before the update."""
        return {"loss": carry["loss"], "loss_limit": carry["loss_limit"][stream]}

    for step in run.steps(cfg.updates):
        features, digits = draw()
        before = carry["near"]
        carry["loss"], g = loss_and_gradient(before, features[stream], digits[stream])
        shared = {"lr": lr, "epsilon": epsilon}
        carry["near"], at_near = near.step(before, g, carry["states"]["near"], **shared, **rates)
        carry["loss_limit"], g = loss_and_gradient(carry["limit"], features, digits)
        decays = limiting(cfg.limit, step + 1, mu, nu)
        carry["limit"], at_limit = limit.step(
            carry["limit"], g, carry["states"]["limit"], lr=lr_limit, epsilon=epsilon, **decays
        )
        carry["states"] = {"near": at_near, "limit": at_limit}
        distance = norm(carry["near"] - carry["limit"][stream])
        carry["farthest"] = torch.maximum(carry["farthest"], distance)
        carry["reach"] = torch.maximum(carry["reach"], norm(carry["limit"]))
        update = (carry["near"] - before).abs().amax((1, 2)) / lr
        carry["largest"] = torch.maximum(carry["largest"], update)
        if (step + 1) % cfg.log_every == 0:
            relative = distance / carry["reach"][stream]
            run.log(step + 1, path_distance=relative, **losses())
    run.summary(
        path_distance=carry["farthest"] / carry["reach"][stream],
        largest_update=carry["largest"],
        **losses(),
    )


def norm(theta: Tensor) -> Tensor:
    """Euclidean norm of each member, (B, d, 10) to (B,)."""
    return theta.flatten(1).norm(dim=1)
