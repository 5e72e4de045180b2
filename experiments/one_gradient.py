"""What a single exploding gradient does to an optimizer's direction (section 2.3).

One coordinate sees the gradient +1 for a long time, then -``task.size`` once, then +1 again. The
learning rate is 1, and an update is counted as positive if it goes against the steady gradient, so
in the steady state it is 1 for every optimizer here. The paper says that the single gradient does
not change LaProp's direction; laprop.bounds.steady_direction tells for which mu and nu this holds.

A vectorised task in float64; nothing in it is random.
"""

import math
from typing import Annotated, Any

import torch
from annotated_types import Gt

from experiments.common.run import Run
from experiments.common.schema import Axis, settings
from experiments.common.settings import updates_in_units_of_lr
from laprop import bounds
from laprop.functional import ALGORITHMS

VERSION = 1  # raise it when the same settings give other numbers
AXES = ("task.size", "optimizer.mu", "optimizer.nu")
OPTIMIZERS = ("adam", "laprop")
OPTIONS: tuple[str, ...] = ()  # the rules have no options here
SCHEDULED = False
LOGGED = 40  # number of logged updates after the large gradient, at equal steps of log t


@settings
class Config:
    """A steady gradient in which one explodes, with the opposite sign.

    Attributes:
        size: absolute value of the exploding gradient.
        before: number of updates with the gradient +1 before it; it should be many times
            1/(1 - nu), because the bias correction weakens an early one.
        after: number of updates with the gradient +1 after it.
    """

    size: Axis[Annotated[float, Gt(0)]]
    before: Annotated[int, Gt(0)]
    after: Annotated[int, Gt(0)]


def closed_form(name: str, mu: float, nu: float) -> float:
    """The update at an exploding gradient of infinite size, derived from the rules.

    LaProp's normalised gradient is bounded, see laprop.bounds.steady_direction. Adam's m and n
    contain little but the exploding gradient, so the update is -(1 - mu) G / sqrt((1 - nu) G^2).
    """
    if name == "laprop":
        return bounds.steady_direction(mu, nu)
    return -(1 - mu) / math.sqrt(1 - nu)


check = updates_in_units_of_lr


def train(cfg: Config, run: Run) -> None:
    """Feed the gradients; keep the updates from the exploding one on."""
    name, grid = run.config.optimizer.name, run.grid
    mu, nu, size = grid["optimizer.mu"], grid["optimizer.nu"], grid["task.size"]
    of = run.config.optimizer
    hyper = {"lr": of.lr, "mu": mu, "nu": nu, "epsilon": of.epsilon}
    algorithm = ALGORITHMS[name]
    origin = torch.zeros(len(grid), dtype=torch.float64, device=run.device)
    carry: dict[str, Any] = {
        "state": algorithm.init(origin),
        "update": origin,
        "moved": origin,  # sum of the updates from the exploding gradient on
        "turned": origin,  # how many of them have the other sign
    }
    run.track(carry=carry)
    logged = {round(cfg.after ** (i / (LOGGED - 1))) for i in range(LOGGED)}
    for step in run.steps(cfg.before + 1 + cfg.after):
        since = step - cfg.before  # 0 at the exploding gradient
        theta, state = algorithm.step(
            origin, -size if since == 0 else origin + 1, carry["state"], **hyper
        )
        before, update = carry["update"], -theta
        carry |= {"state": state, "update": update}
        if since == 0:
            run.summary(update_before=before, update_after=update)
        if since >= 0:
            carry["moved"] = carry["moved"] + update
            carry["turned"] = carry["turned"] + (update < 0)
        if since in logged:
            run.log(since, update=update)
    closed = [closed_form(name, m, n) for m, n in zip(mu.tolist(), nu.tolist(), strict=True)]
    run.summary(update_closed=closed, turned_for=carry["turned"], moved=carry["moved"])
