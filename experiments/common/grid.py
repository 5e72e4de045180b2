"""The members of a vectorised run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.common.settings import Settings


class Grid:
    """The members of a vectorised run: the product of all axes, as one column per axis.

    ``grid["optimizer.nu"]`` is a float64 tensor of shape (B,), ``grid["seed"]`` an int64 one, and
    an axis of strings a NumPy array of shape (B,). The last axis of the task's ``AXES`` changes
    fastest. ``len(grid)`` is B, which is 1 if no setting is a list.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        axes = settings.axes()
        self.frame = pd.DataFrame(settings.members(), columns=list(axes))
        self._device = device

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, axis: str) -> Any:
        values = self.frame[axis].to_numpy()
        if values.dtype.kind not in "fi":
            return values
        return torch.from_numpy(values.copy()).to(self._device)

    def codes(self, axis: str) -> tuple[list[Any], Tensor]:
        """The distinct values of an axis and, per member, the index into them, shape (B,)."""
        codes, values = pd.factorize(self.frame[axis])
        return values.tolist(), torch.from_numpy(codes.astype(np.int64)).to(self._device)
