"""Regret on online convex problems, compared with the bounds (Theorem 1, section 4).

In each round t a convex loss f_t is revealed after theta_t was chosen. The learning rate is
lr/sqrt(t), the momentum mu zeta^(t-1), and theta is clipped to the box [-D/2, D/2]^d after each
update. The regret is R(T) = sum f_t(theta_t) - min over the box of sum f_t.

Theorem 1 has a condition: in each coordinate sqrt(n_t)/lr_t never decreases. Two problems fulfil
the condition at every nu, since no gradient is smaller than the one before it:

- ``growing``: f_t(x) = c_t x, where |c_t| grows from 1 to 10 as a power of t, and the signs are
  random, with a share of positive signs that depends on the seed.
- ``median``: f_t(x) = |x - z_t| with random z_t in the box; the gradients are +1 and -1.

Two break it:

- ``rare``: f_t(x) = C x once in a period, else -x (Reddi et al. 2018, section 3, with a period and
  a C that grow with nu, see :func:`period`). The best x is -D/2, but an optimizer that forgets the
  rare gradient before the next one goes to +D/2.
- ``mnist``: logistic regression, odd against even digits, one image of 14 x 14 pixels (means of
  2 x 2) a round.

A vectorised task in float64. For every member the condition is checked at each round, and the
bounds are evaluated along its own run.
"""

import math
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from annotated_types import Gt, MultipleOf
from scipy.optimize import minimize
from torch import Tensor

from experiments import digits
from experiments.common.messages import ConfigError
from experiments.common.run import Run
from experiments.common.schema import Unit, settings
from experiments.common.settings import Settings
from laprop import bounds
from laprop.functional import ALGORITHMS

VERSION = 2  # raise it when the same settings give other numbers
AXES = ("optimizer.lr", "optimizer.mu", "optimizer.nu", "seed")
OPTIMIZERS = ("adam", "amsgrad", "laprop", "amsprop")
OPTIONS: tuple[str, ...] = ()  # no options, because the theorems are about the plain rules
SCHEDULED = False  # the theorems prescribe how lr and mu decay
ROUNDS_PER_STEP = 100  # rounds in each of run.steps, between which checkpoints are possible
ROUNDING = 1e-12  # a relative decrease that is smaller counts as rounding


@settings
class Config:
    """An online convex problem in a box.

    Attributes:
        problem: which problem, see the module.
        rounds: T; a multiple of 100, at most 60,000 if the problem is ``mnist``.
        zeta: decay rate of the momentum.
        diameter: D, the side of the box.
        peak: C divided by the period, above 1; only ``rare`` uses it.
        points: number of logged rounds, at equal steps of log t.
    """

    problem: Literal["growing", "median", "rare", "mnist"]
    rounds: Annotated[int, Gt(0), MultipleOf(ROUNDS_PER_STEP)]
    zeta: Unit
    diameter: Annotated[float, Gt(0)]
    peak: Annotated[float, Gt(1)]
    points: Annotated[int, Gt(1)]


class Problem(Protocol):
    """A sequence of convex losses, one for each round.

    Attributes:
        dimension: d.
        gradient: G, the largest |gradient| of a coordinate, for each member.
    """

    dimension: int
    gradient: list[float]

    def __call__(self, theta: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """f_t, shape (B,), and its gradient, (B, d), at theta (B, d); t from 1."""

    def best(self, t: int) -> Tensor:
        """The smallest f_1 + ... + f_t in the box, shape (B,)."""


class Linear:
    """f_t(x) = c_t x on [-D/2, D/2].

    Args:
        coefficients: c, shape (rounds, streams).
        stream: which of the streams each member sees, shape (B,).
        diameter: D.
    """

    dimension = 1

    def __init__(self, coefficients: Tensor, stream: Tensor, diameter: float) -> None:
        self.coefficients, self.stream, self.radius = coefficients, stream, diameter / 2
        self.sums = coefficients.cumsum(0)
        self.gradient = coefficients.abs().amax(0)[stream].tolist()

    def __call__(self, theta: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """f_t and its gradient."""
        g = self.coefficients[t - 1, self.stream][:, None]
        return (g * theta).sum(1), g

    def best(self, t: int) -> Tensor:
        """The minimum is at an end of the interval."""
        return -self.radius * self.sums[t - 1, self.stream].abs()


class Distance:
    """f_t(x) = |x - z_t| on [-D/2, D/2], whose sum is smallest at the median.

    Args:
        targets: z, shape (rounds, streams), within the interval.
        stream: which of the streams each member sees, shape (B,).
    """

    dimension = 1

    def __init__(self, targets: Tensor, stream: Tensor) -> None:
        self.targets, self.stream = targets, stream
        self.gradient = [1.0] * len(stream)

    def __call__(self, theta: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """f_t and its gradient."""
        gap = theta - self.targets[t - 1, self.stream][:, None]
        return gap.abs().sum(1), gap.sign()

    def best(self, t: int) -> Tensor:
        """The sum at a median of the targets so far."""
        seen = self.targets[:t]
        return (seen - seen.median(0).values).abs().sum(0)[self.stream]


class Logistic:
    """f_t(theta) = log(1 + exp(-y_t theta.x_t)) with y = +-1 and features x in [0, 1].

    Args:
        features: x, shape (N, d), float64.
        signs: y, shape (N,).
        order: which example each round shows, shape (rounds, streams).
        stream: which of the streams each member sees, shape (B,).
        diameter: D.
    """

    def __init__(
        self, features: Tensor, signs: Tensor, order: Tensor, stream: Tensor, diameter: float
    ) -> None:
        self.signed = features * signs[:, None]
        self.order, self.stream, self.radius = order, stream, diameter / 2
        self.dimension = features.shape[1]
        self.gradient = [1.0] * len(stream)

    def __call__(self, theta: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """f_t and its gradient."""
        x = self.signed[self.order[t - 1]][self.stream]
        margin = (theta * x).sum(1)
        g = x * -torch.sigmoid(-margin)[:, None]
        return torch.nn.functional.softplus(-margin), g

    def best(self, t: int) -> Tensor:
        """The smallest loss, by L-BFGS-B on the rounds so far, one solution per stream.

        The result is at most about 3e-4 above the true minimum, and never below it, so the regret
        is never overstated.
        """
        values = [self._solve(x.cpu().numpy()) for x in self.signed[self.order[:t].T]]
        return self.signed.new_tensor(values)[self.stream]

    def _solve(self, x: np.ndarray) -> float:
        def value_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
            margin = x @ theta
            weight = np.exp(-np.logaddexp(0, margin))  # sigmoid(-margin)
            return float(np.logaddexp(0, -margin).sum()), -(weight @ x)

        box = [(-self.radius, self.radius)] * self.dimension
        options = {"maxiter": 2000, "maxfun": 4000, "maxcor": 20, "ftol": 1e-6}
        start = np.zeros(self.dimension)
        found = minimize(
            value_and_gradient, start, jac=True, bounds=box, method="L-BFGS-B", options=options
        )
        return float(found.fun)


def problem(cfg: Config, run: Run) -> Problem:
    """The problem of the settings."""
    seeds, by_seed = run.grid.codes("seed")
    generators = [run.generator(cfg.problem, seed) for seed in seeds]
    if cfg.problem == "mnist":
        features, labels = digits.load_with_bias(run.device, torch.float64)
        order = torch.stack([torch.randperm(len(labels), generator=g) for g in generators], 1)
        order = order[: cfg.rounds].to(run.device)
        return Logistic(features, 2.0 * (labels % 2).double() - 1, order, by_seed, cfg.diameter)
    if cfg.problem == "median":
        z = torch.stack([targets(cfg.rounds, cfg.diameter, g) for g in generators], 1)
        return Distance(z.to(run.device), by_seed)
    if cfg.problem == "growing":
        c, stream = [growing(cfg.rounds, g) for g in generators], by_seed
    else:
        nus, by_nu = run.grid.codes("optimizer.nu")
        c = [rare(nu, cfg.peak, cfg.rounds, g) for nu in nus for g in generators]
        stream = by_nu * len(seeds) + by_seed
    return Linear(torch.stack(c, 1).to(run.device), stream, cfg.diameter)


def growing(rounds: int, generator: torch.Generator) -> Tensor:
    """Coefficients of the problem ``growing``, shape (rounds,)."""
    share = 0.4 + 0.2 * torch.rand((), dtype=torch.float64, generator=generator)  # of signs +1
    up = torch.rand(rounds, dtype=torch.float64, generator=generator) < share
    sizes = 10 ** (torch.arange(1, rounds + 1, dtype=torch.float64).log() / math.log(rounds))
    return torch.where(up, sizes, -sizes)


def targets(rounds: int, diameter: float, generator: torch.Generator) -> Tensor:
    """Targets of the problem ``median``, shape (rounds,): denser toward -D/2, median at -D/4."""
    return diameter * (torch.rand(rounds, dtype=torch.float64, generator=generator) ** 2 - 0.5)


def period(nu: float, peak: float) -> int:
    """Rounds from one large gradient C to the next, enough for n to forget it.

    After k rounds (1 - nu) C^2 nu^k of its square is left in n. After three quarters of the period
    this is below 1, the square of the other gradients. C is ``peak`` times the period. The period
    is at least 3, as in Reddi et al.
    """
    p = 3.0
    if nu > 0:
        for _ in range(100):
            left = max((peak * p) ** 2 * (1 - nu), 1.0)
            p = 3.0 + 4 / 3 * math.log(left) / -math.log(nu)
    return math.ceil(p)


def rare(nu: float, peak: float, rounds: int, generator: torch.Generator) -> Tensor:
    """Coefficients of the problem ``rare``, shape (rounds,): C, -1, ..., -1, C, ...

    Their mean over a period p is (C - p + 1)/p > 0, with C = ``peak`` p. The sequence starts at a
    random place of the period.
    """
    p = period(nu, peak)
    c = torch.full((rounds,), -1.0, dtype=torch.float64)
    c[int(torch.randint(p, (), generator=generator)) :: p] = peak * p
    return c


def check(settings: Settings) -> None:
    """Refuse more rounds than there are images."""
    cfg = settings.task
    if cfg.problem == "mnist" and cfg.rounds > 60_000:
        raise ConfigError(f"task.rounds={cfg.rounds}: task.problem=mnist has 60,000 images")


def train(cfg: Config, run: Run) -> None:
    """Play all rounds, and keep the regret and the sums that the bounds contain."""
    name, grid = run.config.optimizer.name, run.grid
    algorithm, size = ALGORITHMS[name], len(grid)
    lr, mu, nu = (grid[f"optimizer.{key}"] for key in ("lr", "mu", "nu"))
    epsilon = float(run.config.optimizer.epsilon)  # type: ignore[arg-type]
    game = problem(cfg, run)
    theta = torch.zeros(size, game.dimension, dtype=torch.float64, device=run.device)
    carry: dict[str, Any] = {
        "theta": theta,
        "state": algorithm.init(theta),
        "scaled": torch.zeros_like(theta),  # sqrt(t n_t) of the last round
        "squares": torch.zeros_like(theta),  # sum of g^2
        "falls": torch.zeros(size, dtype=torch.float64, device=run.device),
        "fell_at": torch.full((size,), torch.nan, dtype=torch.float64, device=run.device),
        "halfway": torch.full((size,), torch.nan, dtype=torch.float64, device=run.device),
        "passed": {},  # the first logged round at which the regret is above a bound
    }
    sums = ("loss", "growth", "mixing", "scaled_mixing", "stepping")
    carry |= {key: torch.zeros(size, dtype=torch.float64, device=run.device) for key in sums}
    run.track(carry=carry)
    logged = {round(cfg.rounds ** (i / (cfg.points - 1))) for i in range(cfg.points)}
    for step in run.steps(cfg.rounds // ROUNDS_PER_STEP):
        for t in range(step * ROUNDS_PER_STEP + 1, (step + 1) * ROUNDS_PER_STEP + 1):
            loss, g = game(carry["theta"], t)
            mu_t = mu * cfg.zeta ** (t - 1)
            rate = {"lr": lr / math.sqrt(t), "mu": mu_t, "nu": nu, "epsilon": epsilon}
            theta, state = algorithm.step(carry["theta"], g, carry["state"], **rate)
            root = (state["n_max" if algorithm.amsgrad else "n"] / state["c_n"][:, None]).sqrt()
            root = root + epsilon
            scaled, total = root * math.sqrt(t), root.sum(1)
            # lr_t is lr/sqrt(t), so the theorem's condition is that `scaled` never decreases.
            falls = (scaled < carry["scaled"] * (1 - ROUNDING)).any(1)
            carry["falls"] += falls
            first = falls & carry["fell_at"].isnan()
            carry["fell_at"] = torch.where(first, float(t), carry["fell_at"])
            carry["growth"] += (scaled - carry["scaled"]).clamp(min=0).sum(1)
            carry["mixing"] += mu_t * total
            carry["scaled_mixing"] += mu_t * total * math.sqrt(t)
            carry["stepping"] += total / math.sqrt(t)
            carry["squares"] += g * g
            carry["loss"] += loss
            radius = cfg.diameter / 2
            carry |= {"theta": theta.clamp(-radius, radius), "state": state, "scaled": scaled}
            if t in logged or t == cfg.rounds // 2:
                record(cfg, run, game, carry, t)
    run.summary(condition_broken=carry["falls"] / cfg.rounds, condition_broken_at=carry["fell_at"])
    run.summary(**carry["passed"])


def record(cfg: Config, run: Run, game: Problem, carry: dict[str, Any], t: int) -> None:
    """Log the regret after round t and every bound on it; the summary is the last record."""
    name = run.config.optimizer.name
    regret = carry["loss"] - game.best(t)
    lr, mu, nu = (run.grid[f"optimizer.{key}"].tolist() for key in ("lr", "mu", "nu"))
    rows = range(len(lr))
    total = carry["scaled"].sum(1).tolist()
    constant = {"diameter": cfg.diameter}
    uniform: dict[str, Any] = constant | {"steps": t, "zeta": cfg.zeta, "dimension": game.dimension}
    values: dict[str, list[float]] = {}
    if name in ("laprop", "amsprop"):
        sums = {k: carry[k].tolist() for k in ("mixing", "stepping")}
        along = [
            constant | {"lr": lr[i], "nu": nu[i]} | {k: v[i] for k, v in sums.items()} for i in rows
        ]
        growth = carry["growth"].tolist()
        values["bound_any"] = [bounds.theorem1(growth=growth[i], **along[i]) for i in rows]
        values["bound_run"] = [bounds.theorem1(growth=total[i], **along[i]) for i in rows]
        whole = bounds.theorem1_uniform
    else:
        sums = {
            "root": [value / math.sqrt(t) for value in total],
            "mixing": carry["scaled_mixing"].tolist(),
            "gradient_norm": carry["squares"].sqrt().sum(1).tolist(),
        }
        along = [
            constant
            | {"steps": t, "lr": lr[i], "mu": mu[i], "nu": nu[i]}
            | {k: v[i] for k, v in sums.items()}
            for i in rows
        ]
        values["bound_run"] = [bounds.amsgrad_regret(**along[i]) for i in rows]
        whole = bounds.amsgrad_regret_uniform
    values["bound_uniform"] = [
        whole(lr=lr[i], mu=mu[i], nu=nu[i], gradient=game.gradient[i], **uniform) for i in rows
    ]
    run.log(t, regret=regret, **values)
    if t == cfg.rounds // 2:
        carry["halfway"] = regret
    for key, bound in values.items():
        first = carry["passed"].get(f"{key}_passed_at", torch.full_like(regret, torch.nan))
        above = (regret > regret.new_tensor(bound)) & first.isnan()
        carry["passed"][f"{key}_passed_at"] = torch.where(above, float(t), first)
    # log2 R(T)/R(T/2): 1 for a regret linear in T, 1/2 for sqrt(T).
    run.summary(regret=regret, growth_exponent=(regret / carry["halfway"]).log2(), **values)
