"""Very deep fully connected nets on MNIST (paper 5.3 and C.4, Figure 4).

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
from experiments.common.schema import settings

VERSION = 1  # raise it when the same settings give other numbers
AXES = ("optimizer.lr", "optimizer.mu", "optimizer.epsilon", "optimizer.nu", "seed")
MEAN, STD = 0.1307, 0.3081  # of the training set's pixels, for standardised images


@settings
class Config:
    """A ReLU net with ``depth`` hidden layers of ``width`` units, and its training on MNIST.

    It has 784 inputs and 10 outputs. The loss is the cross-entropy; minibatches are drawn without
    replacement.

    Attributes:
        depth: number of hidden layers, at least 2.
        width: units in each hidden layer.
        batch_size: images in a minibatch; an epoch leaves out the rest that does not fill one.
        updates: number of updates of the training.
        log_every: number of updates between two records, each the mean training loss of these
            updates.
    """

    depth: Annotated[int, Ge(2)]
    width: Annotated[int, Gt(0)]
    batch_size: Annotated[int, Interval(ge=1, le=60000)]
    updates: Annotated[int, Gt(0)]
    log_every: Annotated[int, Gt(0)]

    def __post_init__(self) -> None:
        if self.updates % self.log_every:
            raise ValueError(f"task.log_every={self.log_every}: must divide updates={self.updates}")


def updates(cfg: Config) -> int:
    """Updates of a run."""
    return cfg.updates


def initial(depth: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of one network: Kaiming, that is normal of variance 2 / fan_in, and zero biases.

    The hidden layers after the first have the same shape and are one tensor, ``w`` of shape
    (depth - 1, width, width), so that a step takes the same number of operations at every depth.
    """

    def kaiming(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * (2 / shape[-1]) ** 0.5

    return {
        "w_in": kaiming(width, 784),
        "b_in": torch.zeros(width),
        "w": kaiming(depth - 1, width, width),
        "b": torch.zeros(depth - 1, width),
        "w_out": kaiming(10, width),
        "b_out": torch.zeros(10),
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

    def linear(b: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return torch.baddbmm(b[:, None], x, w.mT)

    x = linear(params["b_in"], images, params["w_in"]).relu_()
    # The backward pass of unbind makes one stack of gradients. That of indexing would make a
    # gradient of the size of w for each layer.
    for w, b in zip(params["w"].unbind(1), params["b"].unbind(1), strict=True):
        x = linear(b, x, w).relu_()
    logits = linear(params["b_out"], x, params["w_out"])
    return stacked.cross_entropy(logits, labels)


def train(cfg: Config, run: Run) -> None:
    """Train the stack; log each member's training loss."""
    seeds, stream = run.grid.codes("seed")
    (images, labels), _ = data.mnist(run.device)
    images = (images.float() / 255 - MEAN) / STD

    carry = stacked.begin(run, lambda g: initial(cfg.depth, cfg.width, g))
    order = torch.zeros(len(seeds), len(images), dtype=torch.int64, device=run.device)
    carry["order"] = order  # of the images in this epoch
    shuffles = [run.generator("batches", seed) for seed in seeds]
    run.track(carry=carry)
    per_epoch = len(images) // cfg.batch_size
    for step in run.steps(cfg.updates):
        i, update = step % per_epoch, step + 1
        if i == 0:
            orders = [torch.randperm(len(images), generator=g) for g in shuffles]
            carry["order"] = torch.stack(orders).to(run.device)
        batch = carry["order"][:, i * cfg.batch_size : (i + 1) * cfg.batch_size]
        loss = partial(losses, images=images[batch][stream], labels=labels[batch][stream])
        stacked.step(run, carry, stacked.gradients(carry, loss), step)
        if update % cfg.log_every == 0:
            stacked.record(run, carry, update, cfg.log_every)
    run.summary(lowest_loss=carry["lowest"], lowest_at=carry["lowest_at"])
