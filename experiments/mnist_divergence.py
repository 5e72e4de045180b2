"""A two-layer ReLU net on MNIST: Adam diverges where mu > sqrt(nu) (paper 3.1, Figure 1).

The same net tests what the paper says about epsilon and gradient clipping (B.1), a nu that is small
at first (B.2), variants (B.4, B.5) and the range of hyper-parameters that work (3.2).

A vectorised task: optimizer.lr, mu, nu, epsilon and seed may be lists; all members train as one
stack of networks. Members with the same seed start at the same weights and see the same batches.
"""

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from experiments import stacked
from experiments.common import data
from experiments.common.run import Run
from experiments.common.schedules import BetaSchedule, Schedule
from experiments.common.schema import Nonnegative, Unit, settings

VERSION = 1  # raise it when the same settings give other numbers
IMAGES = 60_000  # of the training set
AXES = ("optimizer.lr", "optimizer.mu", "optimizer.epsilon", "optimizer.nu", "seed")


@settings
class Config:
    """A ReLU net with 784 inputs, ``width`` hidden units and 10 outputs, and its training.

    The loss is the cross-entropy; minibatches are drawn without replacement.

    Attributes:
        width: hidden units.
        batch_size: images in a minibatch; an epoch leaves out the rest that does not fill one.
        epochs: passes over the 60,000 training images.
        log_every: number of updates between two records, each the mean training loss of these
            updates.
        clip: largest norm of a member's gradient, over all weights; longer ones are scaled down
            to it. 0: no clipping.
        spike_share: probability that an update's gradient is multiplied by ``spike``.
        spike: this factor.
        later_nu: nu after the first ``later_from`` updates, in which it is optimizer.nu; null:
            optimizer.nu in all updates. Figure nu_schedule uses it. ``schedule.nu.shape=steps``
            does the same, and overrides it.
        later_from: number of updates before nu becomes ``later_nu``.
    """

    width: Annotated[int, Gt(0)]
    batch_size: Annotated[int, Interval(ge=1, le=IMAGES)]
    epochs: Annotated[int, Gt(0)]
    log_every: Annotated[int, Gt(0)]
    clip: Nonnegative
    spike_share: Unit
    spike: Nonnegative
    later_nu: Unit | None
    later_from: Annotated[int, Ge(0)]

    def __post_init__(self) -> None:
        total = updates(self)
        if self.log_every > total:
            raise ValueError(
                f"task.log_every={self.log_every}: must be at most {total}, the number of updates"
            )
        if self.later_nu is not None and self.later_from >= total:
            raise ValueError(
                f"task.later_from={self.later_from}: must be below {total}, the number of updates"
            )


def updates(cfg: Config) -> int:
    """Updates of a run."""
    return cfg.epochs * (IMAGES // cfg.batch_size)


def schedule(cfg: Config) -> Schedule:
    """The schedule of ``later_nu``, or none if that is null."""
    if cfg.later_nu is None:
        return Schedule()
    nu = BetaSchedule(shape="steps", milestones=(cfg.later_from,), values=(cfg.later_nu,))
    return Schedule(nu=nu)


def initial(width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of one network, as torch.nn.Linear draws them: uniform within 1/sqrt(fan-in)."""

    def uniform(fan_in: int, *shape: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) / fan_in**0.5

    return {
        "w1": uniform(784, width, 784),
        "b1": uniform(784, width),
        "w2": uniform(width, 10, width),
        "b2": uniform(width, 10),
    }


def losses(params: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each member.

    Args:
        params: stacked weights, each (B, ...).
        images: (B, batch, 784).
        labels: (B, batch).

    Returns:
        shape (B,).
    """
    hidden = torch.baddbmm(params["b1"][:, None], images, params["w1"].mT).relu()
    logits = torch.baddbmm(params["b2"][:, None], hidden, params["w2"].mT)
    return stacked.cross_entropy(logits, labels)


def clipped(gradients: list[Tensor], largest: float) -> list[Tensor]:
    """Gradients of a stack, each (B, ...), with the norm of each member at most ``largest``."""
    norm = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
    factor = (largest / norm).clamp(max=1)  # for a norm of 0, largest / 0 is infinite: factor 1
    return [scaled(g, factor) for g in gradients]


def scaled(g: Tensor, factor: Tensor) -> Tensor:
    """Each member of g (B, ...) times its factor (B,)."""
    return g * factor.view(-1, *(1,) * (g.dim() - 1))


def train(cfg: Config, run: Run) -> None:
    """Train the stack; log each member's training loss."""
    seeds, stream = run.grid.codes("seed")
    (images, labels), _ = data.mnist(run.device)
    images = images.float() / 255

    carry = stacked.begin(run, lambda g: initial(cfg.width, g))
    shuffles = [run.generator("batches", seed) for seed in seeds]
    spikes = [run.generator("spikes", seed) for seed in seeds]
    run.track(carry=carry)
    per_epoch = IMAGES // cfg.batch_size
    for epoch in run.steps(cfg.epochs):
        order = torch.stack([torch.randperm(len(images), generator=g) for g in shuffles])
        order = order.to(run.device)
        chance = torch.stack([torch.rand(per_epoch, generator=g) for g in spikes], 1)
        spiked = (chance < cfg.spike_share).to(run.device)
        for i in range(per_epoch):
            batch = order[:, i * cfg.batch_size : (i + 1) * cfg.batch_size]
            loss = partial(losses, images=images[batch][stream], labels=labels[batch][stream])
            gradients = stacked.gradients(carry, loss)
            if cfg.spike_share:
                factor = torch.where(spiked[i], cfg.spike, 1.0)[stream]
                gradients = [scaled(g, factor) for g in gradients]
            if cfg.clip:
                gradients = clipped(gradients, cfg.clip)
            update = epoch * per_epoch + i + 1
            stacked.step(run, carry, gradients, update - 1)
            if update % cfg.log_every == 0:
                stacked.record(run, carry, update, cfg.log_every)
    run.summary(lowest_loss=carry["lowest"], lowest_at=carry["lowest_at"])
