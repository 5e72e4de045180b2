"""A setting gives the same numbers as a member of a batch and as a run of its own."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Maker, trained

from experiments.common.config import Settings


def alone(make: Maker, batch: Settings, *overrides: str) -> list[Settings]:
    """The members of a batch, each as a run of its own."""
    axes = batch.axes()
    return [
        make(*overrides, *(f"{name}={value!r}" for name, value in zip(axes, member, strict=True)))
        for member in batch.members()
    ]


@pytest.mark.parametrize("optimizer", ["adam", "amsgrad", "laprop"])
def test_rosenbrock_members_equal_runs_alone_bit_for_bit(make: Maker, optimizer: str):
    common = ("task=rosenbrock", f"optimizer={optimizer}", "task.updates=800", "task.mean_over=300")
    batch = make(
        *common, "task.sigma=[0.04,0.12]", "optimizer.lr=[0.01,0.1]", "optimizer.nu=[0,0.999]",
        "optimizer.mu=[0.9]", "seed=[3,4]",
    )  # fmt: skip
    together = trained(batch)
    singles = [trained(settings) for settings in alone(make, batch, *common)]
    assert len(singles) == 16
    for name, values in together.items():
        assert values == [single[name][0] for single in singles], name
    assert len({(x, y) for x, y in zip(together["x_mean"], together["y_mean"], strict=True)}) > 12


def test_mnist_members_equal_runs_alone_to_rounding(make: Maker):
    # Batched and single matrix products may add in another order. After 117 updates the losses
    # differ by less than 1e-4 of their size; another seed or nu changes them by more than 1e-3.
    common = (
        "task=mnist_divergence", "task.width=8", "task.batch_size=512", "task.epochs=1",
        "task.log_every=39",
    )  # fmt: skip
    batch = make(*common, "optimizer.lr=[0.001]", "optimizer.nu=[0.7,0.99]", "seed=[0,1]")
    together = trained(batch)["final_loss"]
    singles = [trained(settings)["final_loss"][0] for settings in alone(make, batch, *common)]
    np.testing.assert_allclose(together, singles, rtol=1e-4)
    gaps = np.abs(np.subtract.outer(singles, singles)) / np.mean(singles)
    assert gaps[~np.eye(len(singles), dtype=bool)].min() > 1e-3
