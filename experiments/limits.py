"""Measures what Adam and LaProp become in the limits of mu and nu (Table 1, section 3).

The problem is softmax regression on MNIST at 14 x 14 pixels (means of 2 x 2), with minibatches, in
float64. The hyper-parameters of a member are at a small ``task.distance`` from a limit. It trains
beside the method that it should become, on the same minibatches, each with the gradients of its own
path. The result is the distance of the two paths.

===================  ==============================  ===========================================
``limit``            hyper-parameters at distance e  should become
===================  ==============================  ===========================================
``mu_0``             mu = e                          RMSProp with the same nu
``mu_0_nu_1``        mu = e, nu = 1 - e              RMSProp with the same nu
``nu_0``             nu = e                          signed SGD with momentum mu
``both_0``           mu = nu = e                     signed SGD
``nu_1_other``       nu = 1 - e, from n = 0          LaProp: Adam; Adam: LaProp; same mu and nu
``nu_1_other_warm``  nu = 1 - e, from a settled n    the same
``nu_1``             nu = 1 - e, from a settled n    SGD with momentum and the rates lr / sqrt(n)
``nu_1_cold``        nu = 1 - e, from n = 0          itself, with n the mean of all g^2
``mu_1``             mu = 1 - e                      itself, with m the mean over all steps
===================  ==============================  ===========================================

A *settled* n is the mean squared gradient of some minibatches before the start. A mean over all
steps is an average with the decay rate 1 - 1/t, so that each of these methods is also a rule of
laprop.functional. The limit of nu to 1 is measured from both starts, because they differ: from
n = 0 the bias correction makes n the mean of all squared gradients so far, which goes on changing
however near nu is to 1, while a settled n stays constant.
"""

from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Interval
from torch import Tensor

from experiments import digits
from experiments.common.run import Run
from experiments.common.schema import Axis, settings
from experiments.stacked import cross_entropy
from laprop.functional import ALGORITHMS, State

VERSION = 2  # raise it when the same settings give other numbers
AXES = ("task.distance", "seed")
OTHER = {"adam": "laprop", "laprop": "adam"}
OPTIMIZERS = tuple(OTHER)
OPTIONS: tuple[str, ...] = ()  # the rules have no options here
SCHEDULED = False
WARM = ("nu_1", "nu_1_other_warm")


@settings
class Config:
    """A limit of Adam or LaProp, approached on softmax regression.

    Attributes:
        limit: which limit, see the module.
        distance: e, the distance of the hyper-parameter from its limit.
        updates: number of updates of both paths.
        batch_size: images in a minibatch, drawn with replacement.
        warmup: minibatches at the start; their mean squared gradient is the settled n.
        log_every: updates between two records.
    """

    limit: Literal[
        "mu_0", "mu_0_nu_1", "nu_0", "both_0",
        "nu_1_other", "nu_1_other_warm", "nu_1", "nu_1_cold", "mu_1",
    ]  # fmt: skip
    distance: Axis[Annotated[float, Interval(gt=0, lt=1)]]
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
    logits = torch.bmm(x, theta)
    p = logits.log_softmax(-1).exp()
    residual = p.scatter_add(-1, labels[..., None], -torch.ones_like(p[..., :1]))
    return cross_entropy(logits, labels), torch.bmm(x.mT, residual) / x.shape[1]


def becomes(limit: str, name: str) -> str:
    """Name of the rule that an optimizer should become in a limit.

    For mu to 0 it is RMSProp with bias correction, which is Adam at mu = 0, see :func:`limiting`.
    """
    if limit in ("mu_0", "mu_0_nu_1"):
        return "adam"
    if limit in ("nu_0", "both_0"):
        return "signsgd"
    if limit in ("nu_1_other", "nu_1_other_warm"):
        return OTHER[name]
    return "momentum" if limit == "nu_1" else name


def approaching(limit: str, e: Tensor, mu: float, nu: float) -> dict[str, Tensor | float]:
    """Decay rates at distance e (B,) from a limit."""
    mu_e = {"mu_0": e, "mu_0_nu_1": e, "both_0": e, "mu_1": 1 - e}.get(limit, mu)
    if limit in ("nu_0", "both_0"):
        return {"mu": mu_e, "nu": e}
    return {"mu": mu_e, "nu": 1 - e if "nu_1" in limit else nu}


def limiting(limit: str, t: int, near: dict[str, Tensor | float]) -> dict[str, Tensor | float]:
    """Decay rates, at update t (from 1), of the method that the optimizer should become.

    Args:
        limit: a limit of the module's table.
        t: number of the update, from 1.
        near: decay rates of the optimizer; those that do not change in the limit are taken over.
    """
    mean = 1 - 1 / t
    changed = {
        "mu_0": {"mu": 0.0},
        "mu_0_nu_1": {"mu": 0.0},
        "both_0": {"mu": 0.0},
        "mu_1": {"mu": mean},
        "nu_1_cold": {"nu": mean},
    }
    return near | changed.get(limit, {})


def warm(state: State, n: Tensor) -> State:
    """A state whose second moment, if it has one, is n (B, d, 10), without bias correction."""
    return state | {"n": n, "c_n": torch.ones_like(state["c_n"])} if "n" in state else state


def train(cfg: Config, run: Run) -> None:
    """Run both methods side by side; keep their distance."""
    name, grid, optimizer = run.config.optimizer.name, run.grid, run.config.optimizer
    lr, mu, nu, epsilon = (float(getattr(optimizer, k)) for k in ("lr", "mu", "nu", "epsilon"))
    near, limit = ALGORITHMS[name], ALGORITHMS[becomes(cfg.limit, name)]
    rates: dict[str, Any] = approaching(cfg.limit, grid["task.distance"], mu, nu)
    x, labels = digits.load_with_bias(run.device, torch.float64)
    seeds, stream = grid.codes("seed")
    generators = [run.generator("batches", seed) for seed in seeds]

    def draw() -> tuple[Tensor, Tensor]:
        """A minibatch for each member: features (B, batch, d) and labels (B, batch)."""
        shape = (cfg.batch_size,)
        rows = torch.stack([torch.randint(len(x), shape, generator=g) for g in generators])
        rows = rows.to(run.device)[stream]
        return x[rows], labels[rows]

    origin = torch.zeros(len(grid), x.shape[1], 10, dtype=torch.float64, device=run.device)
    lr_limit: Tensor | float = lr
    states = {"near": near.init(origin), "limit": limit.init(origin)}
    if cfg.limit in WARM:
        squares = (loss_and_gradient(origin, *draw())[1] ** 2 for _ in range(cfg.warmup))
        n = sum(squares, torch.zeros_like(origin)) / cfg.warmup
        # A pixel that is nearly always black in the warm-up has n near 0, and its steps would be
        # huge.
        n = torch.maximum(n, n.mean((1, 2), keepdim=True) / 100)
        states = {key: warm(state, n) for key, state in states.items()}
        if cfg.limit == "nu_1":
            lr_limit = lr / (n.sqrt() + epsilon)
    zeros = torch.zeros(len(grid), dtype=torch.float64, device=run.device)
    carry: dict[str, Any] = {
        "near": origin,
        "limit": origin,
        "states": states,
        "farthest": zeros,
        "reach": zeros,
        "largest": zeros,
    }
    run.track(carry=carry)
    for step in run.steps(cfg.updates):
        batch = draw()
        before = carry["near"]
        losses = {}
        losses["loss"], g = loss_and_gradient(before, *batch)
        carry["near"], at_near = near.step(
            before, g, carry["states"]["near"], lr=lr, epsilon=epsilon, **rates
        )
        losses["loss_limit"], g = loss_and_gradient(carry["limit"], *batch)
        decays: dict[str, Any] = limiting(cfg.limit, step + 1, rates)
        carry["limit"], at_limit = limit.step(
            carry["limit"], g, carry["states"]["limit"], lr=lr_limit, epsilon=epsilon, **decays
        )
        carry["states"] = {"near": at_near, "limit": at_limit}
        distance = norm(carry["near"] - carry["limit"])
        carry["farthest"] = torch.maximum(carry["farthest"], distance)
        carry["reach"] = torch.maximum(carry["reach"], norm(carry["limit"]))
        update = (carry["near"] - before).abs().amax((1, 2)) / lr
        carry["largest"] = torch.maximum(carry["largest"], update)
        if (step + 1) % cfg.log_every == 0:
            run.log(step + 1, path_distance=distance / carry["reach"], **losses)
        run.summary(**losses)  # on the last minibatch, before the update
    run.summary(path_distance=carry["farthest"] / carry["reach"], largest_update=carry["largest"])


def norm(theta: Tensor) -> Tensor:
    """Euclidean norm of each member, (B, d, 10) to (B,)."""
    return theta.flatten(1).norm(dim=1)
