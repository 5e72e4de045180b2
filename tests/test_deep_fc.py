"""The deep nets of Figure 4: initial weights and loss."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import Maker, assert_refused
from torch import nn

from experiments.deep_fc import initial, losses

pytestmark = pytest.mark.slow


def test_weights_start_as_kaiming_says():
    start = initial(depth=40, width=64, generator=torch.Generator().manual_seed(0))
    assert {name: tuple(value.shape) for name, value in start.items()} == {
        "w_in": (64, 784), "b_in": (64,), "w": (39, 64, 64), "b": (39, 64), "w_out": (10, 64),
        "b_out": (10,),
    }  # fmt: skip
    for name, fan_in in {"w_in": 784, "w": 64, "w_out": 64}.items():
        w = start[name].double()
        # Mean and variance within 4 standard errors, kurtosis a normal's (a uniform's is 1.8).
        n, variance = w.numel(), 2 / fan_in
        assert abs(w.mean()) < 4 * (variance / n) ** 0.5, name
        assert abs(w.var() / variance - 1) < 4 * (2 / n) ** 0.5, name
        assert abs((w**4).mean() / w.var() ** 2 - 3) < 4 * (24 / n) ** 0.5, name
    assert all(not start[name].any() for name in ("b_in", "b", "b_out"))


def test_the_signal_neither_grows_nor_shrinks_with_depth():
    """Kaiming's factor keeps the signal's size; another one would count to the power of 30 here."""
    w = initial(depth=31, width=512, generator=torch.Generator().manual_seed(1))["w"]
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(2))
    for layer in w:
        x = (x @ layer.T).relu()
    assert 0.2 < 2 * x.square().mean() < 5  # the mean square began at 1, and ReLU keeps half of it


def test_losses_are_those_of_a_torch_network():
    starts = [initial(5, 12, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    for start in starts:  # biases other than 0, so that an error in them shows
        for name in ("b_in", "b", "b_out"):
            start[name] += 0.1 * torch.randn(start[name].shape)
    stacked = {name: torch.stack([s[name] for s in starts]).double() for name in starts[0]}
    images = torch.randn(2, 30, 784, dtype=torch.float64)
    labels = torch.randint(10, (2, 30))
    ours = losses(stacked, images, labels)
    for member, start in enumerate(starts):
        sizes = [784, *[12] * 5, 10]
        linears = [nn.Linear(a, b).double() for a, b in itertools.pairwise(sizes)]
        weights = [start["w_in"], *start["w"], start["w_out"]]
        biases = [start["b_in"], *start["b"], start["b_out"]]
        for linear, w, b in zip(linears, weights, biases, strict=True):
            linear.load_state_dict({"weight": w, "bias": b})
        net = nn.Sequential(*[part for linear in linears for part in (linear, nn.ReLU())][:-1])
        theirs = nn.functional.cross_entropy(net(images[member]), labels[member])
        torch.testing.assert_close(ours[member], theirs.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ("depth=1", "must be greater than or equal to 2"),
        ("width=0", "must be greater than 0"),
        ("batch_size=60001", "must be less than or equal to 60000"),
        ("log_every=7", "must divide updates=1160"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(make: Maker, wrong: str, allowed: str):
    assert_refused(make, "task=deep_fc", f"task.{wrong}", allowed=allowed)
