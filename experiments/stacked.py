"""Stacks of networks of one shape, which vectorised tasks train.

The first axis of every weight is that of the members, so that all networks train in one tensor
program. The dict ``carry`` holds all that such a training keeps from one update to the next, and
what its checkpoints save.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from experiments.common.run import Run


def begin(run: Run, initial: Callable[[torch.Generator], dict[str, Tensor]]) -> dict[str, Any]:
    """The first ``carry``: weights and optimizer states of all members, and no losses yet.

    Args:
        run: its grid has the members; those with the same seed start at the same weights.
        initial: a function that draws the weights of one network from a generator.

    Returns:
        ``params`` and ``states``, dicts by the weights' names; for each member ``total``, the sum
        of its losses since the last record, ``lowest``, its lowest record, and ``lowest_at``, the
        update of that record.
    """
    seeds, stream = run.grid.codes("seed")
    starts = [initial(run.generator("weights", seed)) for seed in seeds]
    params = {k: torch.stack([s[k] for s in starts]).to(run.device)[stream] for k in starts[0]}
    members = len(run.grid)
    return {
        "params": params,
        "states": {name: run.algorithm.init(value) for name, value in params.items()},
        "total": torch.zeros(members, device=run.device),
        "lowest": torch.full((members,), torch.inf, device=run.device),
        "lowest_at": torch.zeros(members, dtype=torch.int64, device=run.device),
    }


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each member, (B,).

    Args:
        logits: (B, batch, classes).
        labels: (B, batch).
    """
    chosen = logits.log_softmax(-1).gather(-1, labels[..., None])
    return -chosen.mean((-2, -1))


def gradients(carry: dict[str, Any], losses: Callable[[dict[str, Tensor]], Tensor]) -> list[Tensor]:
    """The gradients of all members, one tensor for each entry of ``params``.

    Each member's loss is added to ``total``.

    Args:
        carry: see :func:`begin`.
        losses: a function of ``params`` that returns the loss of each member, (B,).
    """
    params = {k: v.requires_grad_() for k, v in carry["params"].items()}
    loss = losses(params)
    found = list(torch.autograd.grad(loss.sum(), list(params.values())))
    carry["total"] += loss.detach()
    return found


def step(run: Run, carry: dict[str, Any], gradients: Iterable[Tensor], update: int) -> None:
    """Make one update of all members by the rule of the run's optimizer.

    Args:
        run: gives the rule and the hyper-parameters.
        carry: its ``params`` and ``states`` are replaced.
        gradients: one for each entry of ``params``, in order.
        update: number of the update, counted from 0.
    """
    hyper = run.hyper(update)
    params, states = carry["params"], carry["states"]
    with torch.no_grad():
        for name, g in zip(params, gradients, strict=True):
            params[name], states[name] = run.algorithm.step(
                params[name].detach(), g, states[name], **hyper
            )


def record(run: Run, carry: dict[str, Any], update: int, updates: int) -> None:
    """Log each member's mean loss over the last ``updates`` updates, and keep its lowest."""
    mean = carry["total"] / updates
    carry["total"] = torch.zeros_like(mean)
    run.log(update, train_loss=mean)
    lower = mean < carry["lowest"]
    carry["lowest"] = torch.where(lower, mean, carry["lowest"])
    carry["lowest_at"] = torch.where(lower, update, carry["lowest_at"])
    run.summary(final_loss=mean)
