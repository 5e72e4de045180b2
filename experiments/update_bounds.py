"""How large one update can get (Propositions 1 and 2, section 4 and appendix A).

Adam and LaProp get adversarial gradient sequences, for all (mu, nu) as one tensor program in
float64. ``task.sequence`` chooses the sequence:

- ``laprop_worst``: very small gradients for a long time, then each gradient much larger than the
  one before, so that every normalised gradient is near its own bound 1/sqrt(1 - nu). Squares of
  gradients that span 300 decades are normal float64 numbers; the growth per step is the one that
  drives LaProp furthest within them, see :func:`burst_ratio`.
- ``adam_worst``: g_t in proportion to (nu/mu)^t, for which Cauchy-Schwarz is an equality for Adam's
  m and n at every step. For mu >= sqrt(nu) Adam's updates then grow without bound.
- ``searched``: the result of gradient ascent on the last update over all sequences of
  ``task.searched_length`` gradients, from a random start and without use of the constructions
  above. Only this sequence depends on the seed.

The learning rate is 1, so that an update has the unit of the bounds.
"""

from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from experiments.common.run import Run
from experiments.common.schema import settings
from experiments.common.settings import updates_in_units_of_lr
from laprop import bounds
from laprop.functional import ALGORITHMS, Algorithm

VERSION = 1  # raise it when the same settings give other numbers
AXES = ("optimizer.mu", "optimizer.nu", "seed")
OPTIMIZERS = ("adam", "laprop")
OPTIONS: tuple[str, ...] = ()  # the rules have no options here
SCHEDULED = False
DECADES = 300  # decades that gradients may span, so that their squares are normal float64 numbers
# The largest rise, in decades from one gradient to the next. In float64 a steeper rise gives the
# same updates.
STEEPEST = 6.0
LOGGED = 60  # points of the curve over a sequence, at equal steps of log t


@settings
class Config:
    """An adversary of Adam and LaProp.

    Attributes:
        sequence: which sequence, see the module.
        length: number of gradients in a constructed sequence.
        searched_length: number of gradients in a searched one.
        iterations: number of steps of the search.
    """

    sequence: Literal["laprop_worst", "adam_worst", "searched"]
    length: Annotated[int, Gt(1)]
    searched_length: Annotated[int, Gt(1)]
    iterations: Annotated[int, Gt(0)]


check = updates_in_units_of_lr


def train(cfg: Config, run: Run) -> None:
    """Feed every member its sequence, keep its largest update."""
    name, grid = run.config.optimizer.name, run.grid
    mu, nu = grid["optimizer.mu"], grid["optimizer.nu"]
    # The propositions have no epsilon; the task's value is negligible beside every gradient here.
    of = run.config.optimizer
    hyper = {"lr": of.lr, "mu": mu, "nu": nu, "epsilon": of.epsilon}
    adversary = search if cfg.sequence == "searched" else feed
    reached, at = adversary(ALGORITHMS[name], cfg, run, hyper)
    pairs = list(zip(mu.tolist(), nu.tolist(), at.tolist(), strict=True))
    if name == "laprop":
        bound = printed = [bounds.proposition1(n) for _, n, _ in pairs]
        supremum = [bounds.proposition1_supremum(m, n, t) for m, n, t in pairs]
    else:
        bound = [bounds.proposition2(m, n) for m, n, _ in pairs]
        printed = [bounds.proposition2_printed(m, n) for m, n, _ in pairs]
        supremum = [bounds.proposition2_supremum(m, n, t) for m, n, t in pairs]
    highest = torch.tensor(supremum, dtype=reached.dtype, device=run.device)
    excess = torch.where(highest.isinf(), torch.nan, reached / highest - 1)
    run.summary(update=reached, at_step=at, excess_over_supremum=excess)
    run.summary(supremum=supremum, bound=bound, bound_printed=printed)


def feed(
    algorithm: Algorithm, cfg: Config, run: Run, hyper: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The largest update along a constructed sequence and its step, each of shape (B,)."""
    mu, nu = run.grid["optimizer.mu"], run.grid["optimizer.nu"]
    if cfg.sequence == "laprop_worst":
        slope = burst_ratio(mu, nu)
    else:
        slope = torch.log10(nu / mu).nan_to_num(0.0).clamp(-STEEPEST, STEEPEST)
    logged = {round(cfg.length ** (i / (LOGGED - 1))) for i in range(LOGGED)}
    origin = torch.zeros(len(mu), dtype=torch.float64, device=run.device)
    carry: dict[str, Any] = {
        "state": algorithm.init(origin),
        "reached": origin,
        "at": torch.zeros(len(mu), dtype=torch.int64, device=run.device),
    }
    run.track(carry=carry)
    for step in run.steps(cfg.length):
        g = 10.0 ** exponent(slope, step, cfg.length)
        theta, state = algorithm.step(origin, g, carry["state"], **hyper)
        update = theta.abs()
        larger = update > carry["reached"]
        carry["at"] = torch.where(larger, step + 1, carry["at"])
        carry |= {"state": state, "reached": torch.where(larger, update, carry["reached"])}
        if step + 1 in logged:
            run.log(step + 1, log10_update=update.log10())  # float32 would overflow
    return carry["reached"], carry["at"]


def exponent(slope: Tensor, step: int, length: int) -> Tensor:
    """log10 of gradient number ``step`` (from 0), for slopes in decades per step; shape as slope.

    A rising sequence stays at 1e-150 and rises at the end, when the bias corrections are near 1. A
    falling one falls from 1e150 at once and then stays constant. Both span at most :data:`DECADES`.
    """
    room = torch.floor(DECADES / slope.abs()).clamp(max=length - 1)  # steps that the slope lasts
    rising = (step - (length - 1) + room).clamp(min=0) * slope - DECADES / 2
    falling = room.clamp(max=step) * slope + DECADES / 2
    return torch.where(slope > 0, rising, torch.where(slope < 0, falling, 0.0))


def burst_ratio(mu: Tensor, nu: Tensor) -> Tensor:
    """The growth of gradients, in decades per step, that drives LaProp furthest, shape (B,).

    Growth by the factor r per step lasts k = DECADES / log10(r) steps. Then m is near
    (1 - mu^k) sqrt((1 - nu/r^2) / (1 - nu)) + mu^k. The best of 400 growth rates is taken.
    """
    slopes = torch.logspace(-2, 1, 400, dtype=mu.dtype, device=mu.device).clamp(max=STEEPEST)
    rest = mu[:, None] ** torch.floor(DECADES / slopes)
    each = ((1 - nu[:, None] * 10.0 ** (-2 * slopes)) / (1 - nu[:, None])).sqrt()
    return slopes[((1 - rest) * each + rest).argmax(1)]


def search(
    algorithm: Algorithm, cfg: Config, run: Run, hyper: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The largest last update that gradient ascent over sequences finds, with its step.

    A gradient is tanh(b) exp(a) with free a and b, so that its size can have any scale and its sign
    can change. Adam makes the ascent, on the logarithm of the update; gradients are kept within
    +-:data:`DECADES`/2 decades. At nu = 0 the slope of LaProp's update is 0, so the search stays at
    its start.
    """
    seeds, stream = run.grid.codes("seed")
    shape = (2, cfg.searched_length)
    draws = [
        torch.randn(shape, generator=run.generator("start", seed), dtype=torch.float64)
        for seed in seeds
    ]
    a, b = torch.stack(draws, 1).to(run.device)[:, stream]  # each (B, searched_length)
    a, b = a.contiguous(), b.contiguous()
    ascent, origin = ALGORITHMS["adam"], torch.zeros_like(a[:, 0])
    carry: dict[str, Any] = {
        "a": a,
        "b": b,
        "state_a": ascent.init(a),
        "state_b": ascent.init(b),
        "reached": origin,
    }
    run.track(carry=carry)
    for step in run.steps(cfg.iterations):
        limit = DECADES / 2 * 2.302585
        a = carry["a"].clamp(-limit, limit).requires_grad_()
        b = carry["b"].requires_grad_()
        update = last_update(algorithm, b.tanh() * a.exp(), origin, hyper)
        slope_a, slope_b = torch.autograd.grad(update.log().sum(), (a, b))
        carry["reached"] = torch.maximum(carry["reached"], update.detach())
        rate: dict[str, Any] = {
            "lr": 0.5 * (1 - step / cfg.iterations),
            "mu": 0.9,
            "nu": 0.99,
            "epsilon": 1e-12,
        }
        for key, at, slope in (("a", a, slope_a), ("b", b, slope_b)):
            moved, state = ascent.step(at.detach(), -slope, carry[f"state_{key}"], **rate)
            carry |= {key: moved, f"state_{key}": state}
    at_step = torch.full_like(carry["reached"], cfg.searched_length, dtype=torch.int64)
    return carry["reached"], at_step


def last_update(algorithm: Algorithm, g: Tensor, origin: Tensor, hyper: dict[str, Any]) -> Tensor:
    """|update| after the gradients g (B, length), shape (B,)."""
    state, theta = algorithm.init(origin), origin
    for column in g.unbind(1):
        theta, state = algorithm.step(origin, column, state, **hyper)
    return theta.abs()
