"""ResNet-20 on CIFAR-10: the network, the augmentation, the schedule, the decay, resume."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Maker, assert_refused, records, summary
from tables import tables, written
from torch import Tensor, nn

from experiments import cifar10
from experiments.common.config import expand
from experiments.common.execution import execute
from experiments.common.run import Run
from experiments.common.tables import described, rows, varying
from scripts.figures import cifar_schedule, resnet20, style

pytestmark = pytest.mark.slow

SMALL = ("task=cifar10", "scale=smoke", "task.train_images=64", "task.test_images=50")


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The objects that the last run in this process tracked, for checks after its end."""
    things: dict[str, Any] = {}
    real = Run.track

    def track(run: Run, **named: Any) -> None:
        things.update(named)
        real(run, **named)

    monkeypatch.setattr(Run, "track", track)
    return things


# The network --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shortcut", "count"), [("projection", 272_474), ("pad", 269_722)])
def test_resnet_20_has_the_parameters_of_the_literature(shortcut: str, count: int):
    net = cifar10.resnet(20, 16, shortcut)
    assert sum(p.numel() for p in net.parameters()) == count
    assert f"{count / 1e6:.2f}" == "0.27"
    kinds = Counter(type(module) for module in net.modules())
    assert kinds[nn.Linear] == 1
    # 19 convolutions and one linear layer; projections of the shortcuts come on top.
    assert kinds[nn.Conv2d] == 19 + (2 if shortcut == "projection" else 0)
    shapes, x = [], torch.randn(2, 3, 32, 32)
    for layer in net:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert [(c, h, w) for c, h, w in dict.fromkeys(s for s in shapes if len(s) == 3)] == [
        (16, 32, 32), (32, 16, 16), (64, 8, 8), (64, 1, 1),
    ]  # fmt: skip
    assert shapes[-1] == (10,)


def test_convolutions_start_normal_with_variance_2_over_fan_out():
    torch.manual_seed(0)
    net = cifar10.resnet(20, 16, "projection")
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            w = module.weight.double()
            n, variance = w.numel(), 2 / (module.kernel_size[0] ** 2 * module.out_channels)
            assert abs(w.var() / variance - 1) < 5 * (2 / n) ** 0.5
            assert abs(w.mean()) < 5 * (variance / n) ** 0.5
            assert module.bias is None
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_option_a_passes_every_second_pixel_and_zeros():
    x = torch.randn(2, 4, 6, 6)
    y = cifar10.Pad(4, 8)(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


@pytest.mark.parametrize("width", [1, 4, 6, 16])
def test_a_projection_is_a_strided_convolution_and_its_gradient(width: int):
    apart, convolution, _ = cifar10.Block(width, 2 * width, 2, "projection").shortcut.children()
    net = nn.Sequential(apart, convolution).to(memory_format=torch.channels_last)
    image = torch.randn(16, width, 8, 8).contiguous(memory_format=torch.channels_last)
    weight = convolution.weight.detach().clone().requires_grad_()
    expected = torch.einsum("nchw,ocij->nohw", image[:, :, ::2, ::2], weight)
    found = net(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for y in (found, expected):
        y.square().sum().backward()
    torch.testing.assert_close(convolution.weight.grad, weight.grad, rtol=1e-4, atol=1e-3)


# The augmentation ---------------------------------------------------------------------------------


def window(image: Tensor, top: int, left: int, flip: bool) -> Tensor:
    """The crop of one image (3, 32, 32), by slices."""
    wide = nn.functional.pad(image, (4, 4, 4, 4))[:, top : top + 32, left : left + 32]
    return wide.flip(2) if flip else wide


def test_every_crop_is_a_shifted_and_perhaps_mirrored_image():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5, 3, 32, 32), generator=generator, dtype=torch.uint8)
    # all 81 shifts, each with and without a flip
    ends = torch.cartesian_prod(torch.arange(9), torch.arange(9))
    index = torch.randint(5, (162,), generator=generator)
    shift, flip = ends.repeat(2, 1), torch.arange(162) >= 81
    crops = cifar10.crops(cifar10.padded(images), index, shift, flip)
    assert crops.dtype == torch.uint8
    assert crops.is_contiguous(memory_format=torch.channels_last)
    for crop, i, (top, left), mirrored in zip(crops, index, shift, flip, strict=True):
        assert torch.equal(crop, window(images[i], int(top), int(left), bool(mirrored)))
    unmoved = cifar10.crops(
        cifar10.padded(images), torch.arange(5), torch.full((5, 2), 4), torch.zeros(5).bool()
    )
    assert torch.equal(unmoved, images)


def test_an_epoch_takes_each_image_once_and_shifts_and_flips_uniformly(
    make: Maker, monkeypatch: pytest.MonkeyPatch
):
    drawn: list[tuple[Tensor, Tensor, Tensor]] = []
    real = cifar10.crops

    def crops(images: Tensor, index: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
        drawn.append((index, shift, flip))
        return real(images, index, shift, flip)

    monkeypatch.setattr(cifar10, "crops", crops)
    n = 4000
    execute(
        make(
            *SMALL, f"task.train_images={n}", "task.width=1", "task.epochs=1", "task.batch_size=999"
        )
    )
    index, shift, flip = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    assert [len(part) for part, *_ in drawn] == [999] * 4 + [4]
    assert torch.equal(index.sort().values, torch.arange(n))
    assert not torch.equal(index, torch.arange(n))
    counts = torch.zeros(9, 9).index_put_(tuple(shift.T), torch.ones(n), accumulate=True)
    expected = n / 81
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # the mean of chi square plus five of its standard deviations
    assert chi_square < 80 + 5 * math.sqrt(2 * 80)
    assert abs(flip.double().mean() - 0.5) < 5 * 0.5 / math.sqrt(n)


def test_images_are_standardised_and_halved_by_means():
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    x = cifar10.normalised(images, 32)
    for channel, (mean, std) in enumerate(zip(cifar10.MEAN, cifar10.STD, strict=True)):
        expected = (images[:, channel].double() / 255 - mean) / std
        torch.testing.assert_close(x[:, channel].double(), expected, rtol=1e-5, atol=1e-5)
    halved = cifar10.normalised(images, 16)
    blocks = x.unflatten(2, (16, 2)).unflatten(4, (16, 2)).mean((3, 5))
    torch.testing.assert_close(halved, blocks)


# Schedule and decay -------------------------------------------------------------------------------


def test_rate_and_decay_fall_tenfold_at_each_milestone(make: Maker):
    def values_of(*overrides: str) -> list[tuple[float, float]]:
        """lr and decay of the first update of each epoch; those of its last are the same."""
        settings = make("task=cifar10", *overrides)  # the paper's recipe
        settings.folder.mkdir(parents=True)
        run = Run(settings)
        n = math.ceil(50_000 / 128)
        hyper = [(run.hyper(e * n), run.hyper(e * n + n - 1)) for e in range(164)]
        run.close(completed=False)
        assert cifar10.updates(run.config.task) == 164 * n
        assert all(first == last for first, last in hyper)
        return [(first["lr"], first["weight_decay"]) for first, _ in hyper]

    values = values_of()
    changes = [e for e in range(1, 164) if values[e] != values[e - 1]]
    assert changes == [80, 120]
    for epoch, factor in ((0, 1), (79, 1), (80, 0.1), (119, 0.1), (120, 0.01), (163, 0.01)):
        assert values[epoch] == pytest.approx((1e-3 * factor, 1e-4 * factor), rel=1e-12)
    by_lr = values_of("optimizer.weight_decay=0.1", "optimizer.decay_by_lr=true")
    for epoch in (0, 80, 120):
        assert by_lr[epoch] == pytest.approx(values[epoch], rel=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "amsgrad", "laprop"])
def test_every_optimizer_takes_the_same_decay_which_lr_does_not_scale(
    make: Maker, tracked: dict[str, Any], optimizer: str
):
    # At lr 0 only the decay changes a weight: by 0.9 in four updates and by 0.99 in four more.
    execute(
        make(
            *SMALL, f"optimizer={optimizer}", "optimizer.lr=0", "optimizer.weight_decay=0.1",
            "task.batch_size=16",
        )
    )  # fmt: skip
    ended = [p.detach().clone() for p in tracked["net"].parameters()]
    batch_norms = [m for m in tracked["net"].modules() if isinstance(m, nn.BatchNorm2d)]
    factor = 0.9**4 * 0.99**4
    for module in batch_norms:  # their weights began at 1
        torch.testing.assert_close(module.weight, torch.full_like(module.weight, factor))
    twin = make(*SMALL, "optimizer.lr=0", "optimizer.weight_decay=0", "task.batch_size=16")
    execute(twin)
    for end, start in zip(ended, tracked["net"].parameters(), strict=True):
        torch.testing.assert_close(end, start * factor)


def test_the_optimizer_learns_at_the_scheduled_rate(make: Maker, tracked: dict[str, Any]):
    settings = make(*SMALL, "optimizer.lr=0.001", "task.milestones=[1]")
    execute(settings)
    assert [group["lr"] for group in tracked["optimizer"].param_groups] == [pytest.approx(1e-4)]
    assert [group["weight_decay"] for group in tracked["optimizer"].param_groups] == [0]


# Runs ---------------------------------------------------------------------------------------------


def test_final_numbers_are_means_of_the_last_epochs(make: Maker):
    settings = make(*SMALL, "task.epochs=3", "task.average_over=2")
    assert execute(settings) == "finished"
    logged = records(settings)
    assert [record["step"] for record in logged] == [1, 2, 3]
    for name, value in summary(settings).items():
        assert value == pytest.approx((logged[1][name] + logged[2][name]) / 2)
    assert set(summary(settings)) == set(cifar10.METRICS)
    right = [record["test_accuracy"] * 50 for record in logged]
    assert right == pytest.approx([round(count) for count in right])


def test_a_run_above_the_limit_ends_as_diverged_with_its_epoch(make: Maker):
    settings = make(*SMALL, "task.epochs=3", "task.diverged_above=0.1")
    assert execute(settings) == "diverged"
    manifest = json.loads((settings.folder / "manifest.json").read_text())
    assert manifest["diverged_at"] == 1
    assert len(records(settings)) == 1
    assert set(summary(settings).values()) == {None}


def test_a_run_that_is_not_finite_ends_as_diverged(make: Maker):
    settings = make(*SMALL, "optimizer=adam", "optimizer.lr=1e30")
    assert execute(settings) == "diverged"
    first, second = records(settings)
    # the loss of the only batch is taken before the first update
    assert math.isfinite(first["train_loss"])
    assert second["train_loss"] is None


def test_bfloat16_keeps_the_weights_in_float32_and_trains_alike(
    make: Maker, tracked: dict[str, Any]
):
    losses = {}
    for precision in ("float32", "bfloat16"):
        settings = make(*SMALL, f"task.precision={precision}")
        execute(settings)
        assert {p.dtype for p in tracked["net"].parameters()} == {torch.float32}
        losses[precision] = summary(settings)["train_loss"]
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ("depth=21", "must be 6 n + 2"),
        ("average_over=3", "must be at most task.epochs=2"),
        ("train_images=50001", "less than or equal to 50000"),
        ("shortcut=B", "must be 'projection' or 'pad'"),
        ("milestones=[0]", "must be greater than 0"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(make: Maker, wrong: str, allowed: str):
    assert_refused(make, *SMALL, f"task.{wrong}", allowed=allowed)


def test_the_two_schedules_are_compared_seed_by_seed(tmp_path: Path) -> None:
    """The names of the schedules are those that the tables of the figure's own grid have."""
    every = [described(settings) for settings in expand(["figure=cifar_schedule", "scale=small"])]
    members = pd.concat([rows(run, varying(every)) for run in every], ignore_index=True)
    assert set(members.milestones) == {cifar_schedule.PAPER, cifar_schedule.README}
    later = members.milestones == cifar_schedule.README
    loss = (1 + 0.1 * members.seed) * np.where(later, 0.9 + 0.001 * members.seed, 1)
    runs = members.assign(train_loss=loss, test_accuracy=0.5 + 0.001 * members.seed * later)
    manifest = {"scale": "small", "reduced": "much", "seeds": 5}
    found = written(tmp_path / "small", runs.to_dict("records"), **manifest)
    text = cifar_schedule.cifar_schedule(found)
    assert "LaProp training loss 0.902 [0.900, 0.904] times, test accuracy +0.20 [" in text
    assert cifar_schedule.finding(found).endswith("Adam's by -9.8 %, LaProp's by -9.8 %")


def test_the_whole_recipe_of_resnet20_is_drawn_beside_the_literature(tmp_path: Path) -> None:
    style.use()
    curves = [
        pd.DataFrame({"optimizer": o, "seed": 0, "step": [1, 2], "test_accuracy": [0.5, 0.9]})
        for o in ("adam", "laprop")
    ]
    rows = [{"optimizer": o, "seed": 0, "test_accuracy": 0.9} for o in ("adam", "laprop")]
    found = tables(tmp_path, "resnet20", rows, pd.concat(curves))
    figure = resnet20.draw(found)
    assert len(figure.axes[0].lines) == 3
    plt.close(figure)
    assert resnet20.finding(found).endswith("Adam 90.00 %, LaProp 90.00 %")
