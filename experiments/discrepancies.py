"""How much each discrepancy about the optimizer changes a training path (DISCREPANCIES.md).

Two copies of a small ReLU net on MNIST start at the same weights and see the same minibatches. The
package's default LaProp trains the first (in one pair the authors' AdamW does). The second is
trained with one thing changed, to what the paper prints or to what a copy of the authors' code
does. The effect of the discrepancy is the distance between the two, divided by the distance of the
first from its start.

Two controls compare the default with itself: ``other_batches`` on other minibatches, and
``last_bit`` from weights that are changed in their last bit. An effect that is no larger than that
of ``last_bit`` is a rounding error that the training has amplified.

A vectorised task: task.schedule and seed may be lists.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from experiments import digits, stacked
from experiments.common.run import Run
from experiments.common.schema import Axis, settings
from laprop.functional import ALGORITHMS, Algorithm, State

VERSION = 1  # raise it when the same settings give other numbers
AXES = ("task.schedule", "seed")
OPTIMIZERS = ("laprop",)
OPTIONS: tuple[str, ...] = ()  # no options, because each pair defines how its rules differ
SCHEDULED = False  # task.schedule schedules lr

CODE = replace(ALGORITHMS["lapropw"], lr_weighted_correction=True)  # the package's default


@dataclass(frozen=True)
class Rule:
    """LaProp, or Adam, with the details in which the paper and the authors' files differ.

    Attributes:
        algorithm: the rule in the paper's symbols.
        decay: the factor of the weights in each step: ``constant`` is 1 - w (the paper and the
            authors' main file), ``by_lr`` is 1 - lr w (their fairseq file), and ``scheduled`` is
            1 - w lr/lr_peak (which B.3 recommends if lr is scheduled).
        decay_first: whether weights decay before the step, as in their fairseq file, or after it.
        epsilon_first: whether epsilon is added to the root of n before the bias correction, as in
            their fairseq file. This has the effect of adding epsilon/sqrt(c_n) after it.
        moves_at_zero_lr: whether weights move at lr = 0. In the authors' files they do: the bias
            correction then divides by 1, and the momentum contains older learning rates.
        centered_warmup: number of first steps without centering, for centered algorithms.
        options: keyword arguments that make laprop.LaProp follow this rule, except that LaProp
            never moves at lr = 0; None if no arguments do.
    """

    algorithm: Algorithm = CODE
    decay: Literal["constant", "by_lr", "scheduled"] = "constant"
    decay_first: bool = False
    epsilon_first: bool = False
    moves_at_zero_lr: bool = False
    centered_warmup: int = 10
    options: Mapping[str, Any] | None = None

    def step(
        self,
        theta: Tensor,
        g: Tensor,
        state: State,
        t: int,
        *,
        lr: Tensor,
        lr_peak: float,
        mu: float,
        nu: float,
        epsilon: float,
        weight_decay: float,
    ) -> tuple[Tensor, State]:
        """Return theta (B, d) and the state after step t, counted from 1; lr has shape (B,)."""
        if self.epsilon_first:
            epsilon = epsilon / (1 - nu**t) ** 0.5
        scale = {"constant": (lr > 0).to(lr), "by_lr": lr, "scheduled": lr / lr_peak}[self.decay]
        decay = weight_decay * scale
        if self.decay_first:
            theta, decay = theta * (1 - decay)[:, None].to(theta), torch.zeros_like(lr)
        hyper: dict[str, Any] = {
            "lr": lr,
            "mu": mu,
            "nu": nu,
            "epsilon": epsilon,
            "weight_decay": decay,
        }
        theta, state = self.algorithm.step(
            theta, g, state, **hyper, centered_warmup=self.centered_warmup
        )
        if self.moves_at_zero_lr:
            theta = theta - torch.where(lr[:, None] == 0, state["m"], 0.0)
        return theta, state


@dataclass(frozen=True)
class Pair:
    """Two rules to compare, with the hyper-parameters that they need in order to differ.

    Attributes:
        other: the rule that is compared with ``default``.
        default: the first rule, which is the package's default unless stated.
        fixed: hyper-parameters that replace those of the settings.
        same_batches: whether both see the same minibatches; False for a control.
        nudge: relative change of the weights from which ``other`` starts; not 0 for a control.
    """

    other: Rule
    default: Rule = Rule(options={})
    fixed: Mapping[str, float] | None = None
    same_batches: bool = True
    nudge: float = 0.0


ADAM_EPSILON = {"epsilon": 1e-8}
DECAY = {"weight_decay": 1e-4}  # as for CIFAR-10 (paper C.7) and IWSLT14 (authors' repository)
IN_ROOT = Rule(replace(CODE, eps_in_sqrt=True), options={"eps_in_sqrt": True})
CENTERED = Rule(replace(CODE, centered=True), options={"centered": True})
ADAM = Rule(ALGORITHMS["adam"], decay="scheduled")  # the authors' AdamW, as in the task cifar10

PAIRS = {
    "other_batches": Pair(Rule(options={}), same_batches=False),
    "last_bit": Pair(Rule(options={}), nudge=torch.finfo(torch.float32).eps),
    "printed_correction": Pair(
        Rule(ALGORITHMS["lapropw"], options={"lr_weighted_correction": False})
    ),
    "algorithm_1": Pair(Rule(ALGORITHMS["laprop"], options={"lr_in_momentum": False})),
    "moves_at_zero_lr": Pair(Rule(moves_at_zero_lr=True)),
    "eps_in_sqrt": Pair(IN_ROOT),
    "eps_in_sqrt_adam": Pair(IN_ROOT, fixed=ADAM_EPSILON),
    "eps_first": Pair(Rule(epsilon_first=True)),
    "eps_first_adam": Pair(Rule(epsilon_first=True), fixed=ADAM_EPSILON),
    "decay_by_lr": Pair(Rule(decay="by_lr", options={"decay_by_lr": True}), fixed=DECAY),
    "decay_scheduled": Pair(Rule(decay="scheduled"), fixed=DECAY),
    "decay_first": Pair(Rule(decay_first=True), fixed=DECAY),
    "centered_at_5": Pair(
        replace(CENTERED, centered_warmup=5, options={"centered": True, "centered_warmup": 5}),
        CENTERED,
    ),
    "centered_at_once": Pair(
        replace(CENTERED, centered_warmup=0, options={"centered": True, "centered_warmup": 0}),
        CENTERED,
    ),
    "adam_decay": Pair(replace(ADAM, decay="by_lr"), ADAM, fixed=ADAM_EPSILON | DECAY),
}

SCHEDULES = ("constant", "warmup", "cosine", "drop", "pause")


def factor(schedule: str, step: int, total: int) -> float:
    """The learning rate of a step, counted from 0 out of ``total``, divided by its peak.

    ``warmup``: linear over the first tenth of the steps. ``cosine``: half a cosine, to 0. ``drop``:
    0.1 from the middle on. ``pause``: 0 for a tenth of the steps from the middle on, then 1 again.
    """
    x = step / total
    match schedule:
        case "warmup":
            return min(1.0, 10 * (step + 1) / total)
        case "cosine":
            return (1 + math.cos(math.pi * x)) / 2
        case "drop":
            return 1.0 if x < 0.5 else 0.1
        case "pause":
            return 0.0 if 0.5 <= x < 0.6 else 1.0
    return 1.0


@settings
class Config:
    """A ReLU net with 196 inputs, ``width`` hidden units and 10 outputs, and how it is trained.

    Attributes:
        pair: which discrepancy, see ``PAIRS``.
        schedule: schedule of the learning rate, see :func:`factor`.
        width: number of hidden units.
        batch_size: images in a minibatch, drawn with replacement.
        updates: number of updates of the training.
        loss_images: number of training images on which the final losses are measured.
        points: number of records of the distance in a training.
    """

    pair: Literal[tuple(PAIRS)]  # type: ignore[valid-type]
    schedule: Axis[Literal[SCHEDULES]]  # type: ignore[valid-type]
    width: Annotated[int, Gt(0)]
    batch_size: Annotated[int, Gt(0)]
    updates: Annotated[int, Gt(0)]
    loss_images: Annotated[int, Gt(0)]
    points: Annotated[int, Gt(0)]


def initial(width: int, generator: torch.Generator) -> Tensor:
    """All weights of a net as one vector, drawn as torch.nn.Linear does: within 1/sqrt(fan-in)."""
    layers = ((digits.SIDE**2, width * (digits.SIDE**2 + 1)), (width, 10 * (width + 1)))
    return torch.cat([(2 * torch.rand(n, generator=generator) - 1) / f**0.5 for f, n in layers])


def losses(theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each member, shape (B,).

    Args:
        theta: weights, (B, d).
        images: (B, batch, 196), or (batch, 196) for all.
        labels: (B, batch), or (batch,) for all.
    """
    members, inputs = len(theta), digits.SIDE**2
    width = (theta.shape[1] - 10) // (inputs + 11)
    w1, b1, w2, b2 = theta.split((inputs * width, width, 10 * width, 10), dim=1)
    hidden = (images @ w1.view(members, inputs, width) + b1[:, None]).relu()
    logits = hidden @ w2.view(members, width, 10) + b2[:, None]
    return stacked.cross_entropy(logits, labels.expand(logits.shape[:-1]))


def gradient(theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of each member's loss, (B, d)."""
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(losses(theta, images, labels).sum(), theta)[0]


def train(cfg: Config, run: Run) -> None:
    """Train both copies of every member; log and summarise their distance."""
    pair, grid, h = PAIRS[cfg.pair], run.grid, run.config.optimizer
    assert isinstance(h.lr, float)  # it is not in AXES
    hyper = {k: getattr(h, k) for k in ("mu", "nu", "epsilon", "weight_decay")}
    hyper |= {"lr_peak": h.lr} | dict(pair.fixed or {})
    factors = [
        [factor(s, i, cfg.updates) for s in grid["task.schedule"]] for i in range(cfg.updates)
    ]
    rates = torch.tensor(factors, dtype=torch.float64, device=run.device)
    seeds, stream = grid.codes("seed")
    images, labels = digits.load(run.device, torch.float32)

    start = torch.stack([initial(cfg.width, run.generator("weights", seed)) for seed in seeds])
    start = start.to(run.device)[stream]
    names = ("batches", "batches" if pair.same_batches else "other batches")
    generators = {name: [run.generator(name, seed) for seed in seeds] for name in set(names)}
    rules = (pair.default, pair.other)
    carry: dict[str, Any] = {
        "theta": [start, start * (1 + pair.nudge)],
        "state": [rule.algorithm.init(start) for rule in rules],
        "zero_lr_step": torch.zeros(len(grid), device=run.device),
    }
    run.track(carry=carry)
    logged = {round(cfg.updates * (i + 1) / cfg.points) for i in range(cfg.points)}
    for step in run.steps(cfg.updates):
        size = (cfg.batch_size,)
        drawn = {
            name: torch.stack([torch.randint(len(images), size, generator=g) for g in several])
            for name, several in generators.items()
        }
        lr = h.lr * rates[step]
        for i, (rule, name) in enumerate(zip(rules, names, strict=True)):
            batch = drawn[name].to(run.device)[stream]
            old = carry["theta"][i]
            g = gradient(old, images[batch], labels[batch])
            new, carry["state"][i] = rule.step(old, g, carry["state"][i], step + 1, lr=lr, **hyper)
            carry["theta"][i] = new
        # Here `new` and `old` are those of the other rule. The default never moves at lr = 0.
        moved = torch.where(lr == 0, (new - old).abs().amax(1), 0.0)
        carry["zero_lr_step"] = torch.maximum(carry["zero_lr_step"], moved)
        if step + 1 in logged:
            distance = (carry["theta"][1] - carry["theta"][0]).norm(dim=1)
            difference = distance / (carry["theta"][0] - start).norm(dim=1)
            run.log(step + 1, difference=difference)
            run.summary(difference=difference)
    run.summary(zero_lr_step=carry["zero_lr_step"])
    some = images[: cfg.loss_images], labels[: cfg.loss_images]
    loss, other = (losses(theta, *some) for theta in carry["theta"])
    run.summary(loss=loss, loss_difference=other - loss)
