"""A task that forgets to track: its loss depends on a local that a resumed run starts anew."""

import os

import torch

from experiments.common.run import Run
from experiments.common.schema import settings


@settings
class Config:
    """Gradient descent towards the running mean of its own path.

    Attributes:
        steps: of training.
        tracked: whether the mean is part of the checkpoint.
        random: whether each record also holds a number that no seed decides.
        fails_late: whether the run fails where it is resumed.
        log_every: number of steps between records.
        loops: whether it asks for its steps.
        explodes: whether the loss is NaN at once.
    """

    steps: int = 9
    tracked: bool = False
    random: bool = False
    fails_late: bool = False
    log_every: int = 1
    loops: bool = True
    explodes: bool = False


def train(cfg: Config, run: Run) -> None:
    """Log the distance to the mean."""
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = run.optimizer([weight])
    mean = torch.zeros(1)
    run.track(optimizer=optimizer, weight=weight)
    if cfg.tracked:
        run.track(mean=mean)
    for step in run.steps(cfg.steps) if cfg.loops else range(cfg.steps):
        if cfg.fails_late and step > 3 and not mean.any():
            raise RuntimeError("the mean is lost")
        mean.mul_(0.9).add_(0.1 * weight.detach() + 1)
        loss = (weight - mean).square().sum()
        if cfg.explodes and run.diverged(loss * float("nan"), step + 1):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        chance = {"chance": int.from_bytes(os.urandom(4), "big")} if cfg.random else {}
        if (step + 1) % cfg.log_every == 0:
            run.log(step, loss=loss, **chance)
        run.summary(final_loss=loss)
