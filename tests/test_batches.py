"""A setting gives the same numbers as a member of a batch and as a run of its own."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Maker, trained

from experiments import style_transfer
from experiments.common.settings import Settings

pytestmark = pytest.mark.slow


def alone(make: Maker, batch: Settings, *overrides: str) -> list[Settings]:
    """The members of a batch, each as a run of its own."""
    members = [zip(batch.axes(), member, strict=True) for member in batch.members()]
    return [
        make(*overrides, *(f"{name}={value!r}" for name, value in member if value is not None))
        for member in members
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


LOSS = ("final_loss",)
CASES: dict[str, tuple[str, str, tuple[str, ...], float]] = {
    "mnist_divergence": (
        "task=mnist_divergence task.width=8 task.batch_size=512 task.epochs=1 task.log_every=39",
        "optimizer.nu=[0.7,0.99] seed=[0,1]", LOSS, 1e-4,
    ),
    **{
        f"deep_fc of {optimizer}": (
            f"task=deep_fc optimizer={optimizer} task.depth=6 task.width=16 task.batch_size=200 "
            "task.updates=40 task.log_every=10",
            "optimizer.lr=[0.001,0.0001] seed=[0,1]", LOSS, 1e-4,
        )
        for optimizer in ("adam", "amsgrad", "laprop")
    },
    "imdb": (
        "task=imdb scale=smoke optimizer.lr=0.01",
        "optimizer.nu=[0,0.9] task.flip=[0,0.3] seed=[0,5]", ("train_loss",), 1e-4,
    ),
    # Epsilon is large enough that gradients whose sign depends on rounding move little.
    "style_transfer": (
        "task=style_transfer scale=smoke task.size=16 optimizer.epsilon=1",
        "optimizer.nu=[0.4,0.99] optimizer.lr=[0.01,0.1] seed=[0,1]", ("regret", *LOSS), 1e-4,
    ),
    "style_transfer by lbfgs": (
        "task=style_transfer scale=smoke task.size=16 task.updates=25 optimizer=lbfgs",
        "seed=[0,1]", ("regret",), 1e-3,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("common", "axes", "names", "tolerance"), CASES.values(), ids=CASES)
def test_members_equal_runs_alone_to_rounding(
    make: Maker, monkeypatch: pytest.MonkeyPatch, common: str, axes: str, names: tuple[str, ...],
    tolerance: float,
) -> None:  # fmt: skip
    """Batched and single products may add in another order; two members differ by far more."""
    monkeypatch.setitem(style_transfer.CHUNK, "cpu", 3 * 16**2)  # 8 go in groups of 3, 3 and 2
    batch = make(*common.split(), *axes.split())
    together = trained(batch)
    singles = [trained(settings) for settings in alone(make, batch, *common.split())]
    for name in names:
        values = [single[name][0] for single in singles]
        np.testing.assert_allclose(together[name], values, rtol=tolerance)
        gaps = np.abs(np.subtract.outer(np.log(values), np.log(values)))
        assert gaps[~np.eye(len(values), dtype=bool)].min() > 3 * tolerance
