"""NAME: a small network on MNIST, to be replaced by a task of your own."""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.common import data
from experiments.common.run import Run
from experiments.common.schema import settings

RESULT = "best_valid_loss"  # the number that a sweep prints for a finished run
TRAINED_ON = 50_000  # of the 60,000 training images; the others are for validation


@settings
class Config:
    """The settings in configs/task/NAME.yaml. A value out of range is refused before a run begins.

    Attributes:
        width: number of hidden units.
        batch_size: images in a minibatch, drawn with replacement.
        updates: number of updates of the training.
        evaluate_every: number of updates between two evaluations.
    """

    width: Annotated[int, Gt(0)]
    batch_size: Annotated[int, Gt(0)]
    updates: Annotated[int, Gt(0)]
    evaluate_every: Annotated[int, Gt(0)]


def updates(cfg: Config) -> int:
    """Number of updates of a run; a schedule such as schedule.lr.shape=cosine ends with them."""
    return cfg.updates


def train(cfg: Config, run: Run) -> None:
    """Train, log both losses, and keep the network with the lowest validation loss."""
    (images, labels), _ = data.mnist(run.device)
    images = images.float() / 255
    net = nn.Sequential(nn.Linear(784, cfg.width), nn.ReLU(), nn.Linear(cfg.width, 10))
    net = net.to(run.device)
    optimizer = run.optimizer(net.parameters())  # the one in the settings, with its schedule
    batches = run.generator("batches")  # each purpose has its own generator, seeded by seed=
    # Name everything that a resumed run needs. python -m experiments.check task=NAME tests this.
    run.track(net=net, optimizer=optimizer)
    for step in run.steps(cfg.updates):  # begins where a killed run stopped
        batch = torch.randint(TRAINED_ON, (cfg.batch_size,), generator=batches).to(run.device)
        loss = cross_entropy(net(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run.diverged(loss, step + 1):  # NaN or infinite: a result, not a crash
            break
        if (step + 1) % cfg.evaluate_every == 0:
            with torch.no_grad():
                valid_loss = cross_entropy(net(images[TRAINED_ON:]), labels[TRAINED_ON:])
            run.log(step + 1, train_loss=loss.detach(), valid_loss=valid_loss)
            run.summary(valid_loss=valid_loss)
            run.best("valid_loss", valid_loss, step + 1, net=net)
