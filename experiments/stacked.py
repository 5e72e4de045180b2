"""Stacks of networks of one shape, which deep_fc and mnist_divergence train.

The first axis of every weight is that of the members, so that all networks train in one tensor
program. The dict ``carry`` holds all that such a training keeps from one update to the next, and
what its checkpoints save.
"""

from collections.abc import Callable
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


def record(run: Run, carry: dict[str, Any], update: int, updates: int) -> None:
    """Log each member's mean loss over the last ``updates`` updates, and keep its lowest."""
    mean = carry["total"] / updates
    carry["total"] = torch.zeros_like(mean)
    run.log(update, train_loss=mean)
    lower = mean < carry["lowest"]
    carry["lowest"] = torch.where(lower, mean, carry["lowest"])
    carry["lowest_at"] = torch.where(lower, update, carry["lowest_at"])
    run.summary(final_loss=mean)
