"""A small torch.nn task for the tests: every kind of state that a resumed run must get back."""

import os
import random
import time
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from annotated_types import Ge, Gt

from experiments.common.run import Run
from experiments.common.schema import settings


@settings
class Config:
    """Regression by a small network with dropout.

    Attributes:
        steps: of training.
        explode_at: step whose loss is NaN; -1: none.
        fail_at: step that raises unless the file ``mended`` lies in the run's folder; -1: none.
        pause: seconds that a step takes besides; TOY_PAUSE in the environment takes its place, and
            leaves the run's key as it is.
        starts: file to which each start of a training adds its key; empty: none.
    """

    steps: Annotated[int, Gt(0)] = 12
    explode_at: Annotated[int, Ge(-1)] = -1
    fail_at: Annotated[int, Ge(-1)] = -1
    pause: Annotated[float, Ge(0)] = 0.0
    starts: str = ""


def train(cfg: Config, run: Run) -> None:
    """Draw from every generator at every step."""
    if cfg.starts:
        with open(cfg.starts, "a") as file:
            file.write(f"{run.config.key}\n")
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)
    )
    optimizer = run.optimizer(model.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    batches = run.generator("batches")
    own = torch.Generator().manual_seed(7)
    mean = torch.zeros(4)
    best = {"loss": float("inf"), "at": -1, "nested": {"weights": [torch.zeros(8, 4)]}, "name": "-"}
    run.track(model=model, optimizer=optimizer, schedule=schedule, own=own, mean=mean, best=best)
    for step in run.steps(cfg.steps):
        x = torch.randn(16, 4, generator=batches)
        late = torch.rand(1, generator=run.generator("asked for late")) if step > 2 else 0.0
        y = x.sum(1, keepdim=True) + torch.rand(16, 1, generator=own) + late
        if step % 5 == 4:
            y += torch.rand(1, generator=run.generator("rarely asked"))
        y += float(np.random.normal()) + random.random()  # noqa: NPY002
        loss = torch.nn.functional.mse_loss(model(x), y)
        if step == cfg.explode_at:
            loss = loss * float("nan")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean.add_(x.mean(0))
        if loss.item() < best["loss"]:
            best |= {"loss": loss.item(), "at": step, "name": f"step {step}"}
            best["nested"] = {"weights": [model[0].weight.detach().clone()]}
        run.log(step, loss=loss, rate=schedule.get_last_lr()[0])
        run.summary(loss=loss, best=best["loss"], best_at=best["at"], mean=mean.sum())
        if step == cfg.fail_at and not (run.folder / "mended").exists():
            raise RuntimeError("this step fails\nas it was told to")
        if run.diverged(loss, step):
            break
        time.sleep(float(os.environ.get("TOY_PAUSE", cfg.pause)))
    run.summary(weights=best["nested"]["weights"][0].sum())
    run.table("layers", pd.DataFrame({"layer": [0, 3], "size": [8, 1]}))
