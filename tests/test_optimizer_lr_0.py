"""A step of LaProp at a learning rate of 0, or of slightly less by a scheduler's rounding."""

import copy
import itertools
import math

import pytest
import torch
from torch.nn import Parameter
from training import KINDS as DTYPES
from training import NARROW, OPTIONS, allow_capturable, assert_same, make, train

from laprop import LaProp

KINDS = [{"foreach": False}, {"foreach": True}, {"fused": True}]
each_kind = pytest.mark.parametrize("kind", KINDS)
# Those that compute with tensors, on a CPU with allow_capturable.
ON_DEVICE = [{**kind, "capturable": True} for kind in KINDS[:2]]


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(
    ("dtype", "low_precision"),
    [(dtype, "master") for dtype in DTYPES]
    + [(dtype, kind) for dtype in NARROW for kind in ("stochastic", "nearest")],
)
def test_lr_0_moves_nothing(dtype, low_precision, foreach):
    """At the start and after other learning rates, with any option, also those of weight decay."""
    for options, wrap in itertools.product(OPTIONS, (float, torch.tensor)):
        params = make(dtype)
        optimizer = LaProp(
            params, lr=wrap(0.0), foreach=foreach, low_precision=low_precision, **options
        )
        for _ in range(2):
            before = copy.deepcopy(params)
            assert_same(train(params, optimizer, 3, lr=lambda t: 0.0), before)
            train(params, optimizer, 3, lr=lambda t: 0.01)
            assert any(not torch.equal(a, b) for a, b in zip(params, before, strict=True))


@pytest.mark.parametrize("zeros", [1, 500, 8000])
def test_lr_comes_back_from_0(zeros):
    """After any number of steps at lr = 0 the steps have their full length again."""
    param = Parameter(torch.zeros(3))
    optimizer = LaProp([param], lr=0.01)
    g = torch.tensor([1.0, -1.0, 0.5])
    for t in range(20 + zeros + 20):
        optimizer.param_groups[0]["lr"] = 0.0 if 20 <= t < 20 + zeros else 0.01
        param.grad = g
        optimizer.step()
    assert torch.allclose(param, -0.01 * 40 * g.sign(), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS + ON_DEVICE)
@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0), torch.tensor(-1e-20)])
def test_at_lr_0_no_gradient_moves_a_weight(lr, kind, monkeypatch):
    allow_capturable(monkeypatch)
    param = Parameter(torch.ones(3))
    optimizer = LaProp([param], lr=1e-3, weight_decay=0.001, **kind)
    optimizer.param_groups[0]["lr"] = lr
    param.grad = torch.tensor([1.0, math.nan, math.inf])
    optimizer.step()
    assert param.tolist() == [1.0, 1.0, 1.0]


def derivative_in_lr(*rates, **options):
    """Of the sum of the weights after a step for each lr, in the last lr."""
    param = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True).clone()
    optimizer = LaProp([param], lr=0.1, differentiable=True, **options)
    for rate in rates:
        lr = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
        optimizer.param_groups[0]["lr"] = lr
        param.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
        optimizer.step()
    (derivative,) = torch.autograd.grad(param.sum(), lr)
    return derivative.item()


def test_meta_gradients_in_an_lr_of_0():
    """The derivative is that for a very small lr, unless the step jumps there."""
    inside, after = {"lr_in_momentum": False}, {"weight_decay": 0.005, "decay_by_lr": True}
    for rates, options in (((), inside), ((), inside | after), ((0.1,), {}), ((0.1, 0.0), after)):
        expected = derivative_in_lr(*rates, 1e-9, **options)
        assert expected < -1
        assert derivative_in_lr(*rates, 0.0, **options) == pytest.approx(expected, rel=1e-6)
    for rates, options in (((), {}), ((0.1,), {"lr_weighted_correction": False})):
        assert math.isfinite(derivative_in_lr(*rates, 0.0, **options))
    # An update that is not finite leaves the weights as they are, with a finite derivative.
    param = torch.ones(2, requires_grad=True).clone()
    lr = torch.tensor(0.0, requires_grad=True)
    optimizer = LaProp([param], lr=lr, lr_in_momentum=False, differentiable=True)
    param.grad = torch.tensor([1.0, math.nan])
    optimizer.step()
    assert param.tolist() == [1.0, 1.0]
    assert torch.autograd.grad(param.sum(), lr)[0] == -1


@pytest.mark.parametrize("kind", KINDS + ON_DEVICE)
@pytest.mark.parametrize("wrap", [float, torch.tensor])
@pytest.mark.parametrize("lr_weighted_correction", [True, False])
@pytest.mark.parametrize(
    ("start", "length"), [(0.9, 7), (1 / 3, 4), (1 / 3, 1000), (0.1, 50), (0.01, 3)]
)
def test_an_lr_that_a_scheduler_rounds_below_0_counts_as_0(
    start, length, lr_weighted_correction, wrap, kind, monkeypatch
):
    """In a step, in a state that is loaded, and in a group that is added."""
    allow_capturable(monkeypatch)
    options = {"weight_decay": 1e-4, "lr_weighted_correction": lr_weighted_correction, **kind}
    param, loaded, added = (Parameter(torch.ones(2)) for _ in range(3))
    optimizer = LaProp([param], lr=wrap(1e-3), **options)
    group = optimizer.param_groups[0]
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start, 0.0, length)
    for _ in range(length):
        param.grad = torch.ones(2)
        optimizer.step()
        scheduler.step()
    assert -1e-19 < group["lr"] < 0
    loaded.data = param.detach().clone()
    other = LaProp([loaded], lr=wrap(0.5), **options)
    other.load_state_dict(optimizer.state_dict())
    other.add_param_group({**group, "params": [added]})
    before = param.detach().clone()
    for _ in range(2):
        for weights in (param, loaded, added):
            weights.grad = torch.ones(2)
        optimizer.step()
        other.step()
    assert torch.equal(param, before)
    assert torch.equal(loaded, before)
    assert torch.equal(added, torch.ones(2))
    states = (optimizer.state[param], other.state[loaded], other.state[added])
    assert [int(state["step"]) for state in states] == [length + 2, length + 2, 2]
    rates = [one["lr"] for one in other.param_groups] + [group["lr"]] * (wrap is float)
    assert rates == [0.0] * len(rates)


@each_kind
def test_any_other_lr_below_0_is_refused(kind):
    with pytest.raises(ValueError, match=r"Invalid learning rate: -1e-21"):
        LaProp([Parameter(torch.ones(2))], lr=-1e-21, **kind)
    param = Parameter(torch.ones(2))
    optimizer = LaProp([param], lr=1e-3, **kind)
    group = optimizer.param_groups[0]
    for initial, bound in ((None, 1e-15), (1e-6, 1e-18), (0.0, 0.0)):
        if initial is not None:
            group["initial_lr"] = initial
        param.grad = torch.ones(2)
        group["lr"] = -2e-12 * (initial or 1e-3)
        with pytest.raises(ValueError, match=r"Invalid learning rate: -"):
            optimizer.step()
        group["lr"] = -bound / 2
        optimizer.step()
        assert group["lr"] == 0
        assert torch.equal(param, torch.ones(2))
