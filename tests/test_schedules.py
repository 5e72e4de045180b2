"""Schedules of mu and nu: their curves, resuming, torch's conventions, any torch optimizer."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Parameter

from laprop import LaProp
from laprop.schedules import (
    BetaScheduler,
    ConstantBeta,
    CosineBeta,
    LinearBeta,
    RaiseBeta,
    StepBeta,
)


def optimizer(cls=LaProp, betas=(0.9, 0.5)):
    param = Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    return cls([param], betas=betas)


def curve(schedule, steps):
    values = []
    for _ in range(steps):
        values.append(schedule.get_last_beta()[0])
        schedule.optimizer.step()
        schedule.step()
    return values


MAKE = {
    "constant": lambda o, **k: ConstantBeta(o, "nu", value=0.1, total_iters=3, **k),
    "step": lambda o, **k: StepBeta(o, "nu", milestones=[2, 4], values=[0.7, 0.9], **k),
    "linear": lambda o, **k: LinearBeta(o, "nu", end=0.9, total_iters=4, **k),
    "cosine": lambda o, **k: CosineBeta(o, "nu", end=0.9, total_iters=4, **k),
    "raise": lambda o, **k: RaiseBeta(o, "nu", end=0.995, milestone=2, total_iters=2, **k),
    "jump": lambda o, **k: RaiseBeta(o, "nu", end=0.995, milestone=3, **k),
}
EXPECTED = {
    "constant": [0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5],
    "step": [0.5, 0.5, 0.7, 0.7, 0.9, 0.9, 0.9],
    "linear": [0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9],
    "cosine": [0.5, 0.7 - 0.2 * math.sqrt(0.5), 0.7, 0.7 + 0.2 * math.sqrt(0.5), 0.9, 0.9, 0.9],
    "raise": [0.5, 0.5, 0.5, 0.95, 0.995, 0.995, 0.995],
    "jump": [0.5, 0.5, 0.5, 0.995, 0.995, 0.995, 0.995],
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("cls", [LaProp, torch.optim.Adam, torch.optim.NAdam])
def test_curves(kind, cls):
    o = optimizer(cls)
    assert curve(MAKE[kind](o), 7) == pytest.approx(EXPECTED[kind], abs=1e-15)
    assert o.param_groups[0]["betas"][0] == 0.9


@pytest.mark.parametrize("cls", [LaProp, torch.optim.Adam])
def test_tensor_betas_are_filled_in_place(cls):
    betas = (torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
    o = optimizer(cls, betas)
    assert curve(MAKE["raise"](o), 7) == pytest.approx(EXPECTED["raise"], abs=1e-15)
    assert o.param_groups[0]["betas"][1] is betas[1]


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("stop", [0, 2, 3, 5])
def test_resume(kind, stop):
    """A schedule goes on after its state and the optimizer's were saved to a file and loaded."""
    schedule = MAKE[kind](optimizer())
    curve(schedule, stop)
    file = io.BytesIO()
    torch.save([schedule.state_dict(), schedule.optimizer.state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)

    other = optimizer(betas=(0.2, 0.2))
    resumed = MAKE[kind](other)
    other.load_state_dict(states[1])
    resumed.load_state_dict(states[0])
    # The order in which a schedule is made and the optimizer's state is loaded is of no account.
    late = optimizer(betas=(0.2, 0.2))
    late.load_state_dict(states[1])
    resumed_late = MAKE[kind](late)
    resumed_late.load_state_dict(states[0])
    assert "optimizer" not in states[0]
    assert curve(resumed, 4) == curve(resumed_late, 4) == curve(schedule, 4)

    # torch's other way to resume: last_epoch, with the optimizer's state alone.
    third = optimizer(betas=(0.2, 0.2))
    third.load_state_dict(states[1])
    again = MAKE[kind](third, last_epoch=stop - 1)
    assert again.last_epoch == stop
    assert again.get_last_beta()[0] == pytest.approx(EXPECTED[kind][stop], abs=1e-15)


def test_groups_mu_nu_and_lr_together():
    params = [Parameter(torch.ones(2)) for _ in range(2)]
    o = LaProp([{"params": params[:1]}, {"params": params[1:], "betas": (0.5, 0.0)}], lr=1.0)
    schedules = [
        LinearBeta(o, "mu", end=0.0, total_iters=2),
        LinearBeta(o, "nu", end=0.5, total_iters=2),
        torch.optim.lr_scheduler.ExponentialLR(o, gamma=0.5),
    ]
    o.step()
    for schedule in schedules:
        schedule.step()
    assert [group["lr"] for group in o.param_groups] == [0.5, 0.5]
    assert o.param_groups[0]["betas"] == pytest.approx((0.45, 0.7495))
    assert o.param_groups[1]["betas"] == pytest.approx((0.25, 0.25))
    assert schedules[0].get_last_beta() == pytest.approx([0.45, 0.25])
    LaProp(copy.deepcopy(o.param_groups))  # a group accepts what schedulers write into it


@given(
    initial=st.floats(0, 1, exclude_max=True),
    end=st.floats(0, 1, exclude_max=True),
    t=st.integers(-1, 200),
    total=st.integers(0, 100),
)
def test_every_value_is_a_beta(initial, end, t, total):
    """Every value lies in [0, 1), and the values are monotone between any two ends."""
    for kind in (LinearBeta, CosineBeta, RaiseBeta):
        arguments = {"milestone": 3} if kind is RaiseBeta else {}
        schedule = kind(optimizer(), "nu", end=end, total_iters=total, **arguments)
        schedule.last_epoch = t + 1
        value = schedule.get_beta(initial)
        assert 0 <= value < 1
        assert min(initial, end) - 1e-15 <= value <= max(initial, end) + 1e-15


@pytest.mark.parametrize(
    ("make", "error", "line"),
    [
        (lambda o: LinearBeta(o, "xi", 0.9, 3), ValueError, "beta: 'xi' (allowed: 'mu', 'nu')"),
        (lambda o: LinearBeta(o, "nu", "0.9", 3), ValueError, "end: '0.9' (allowed: 0 <= end < 1)"),
        (lambda o: CosineBeta(o, "nu", None, 3), ValueError, "end: None (allowed: 0 <= end < 1)"),
        (lambda o: LinearBeta(o, "nu", 0.9, True), ValueError, "total_iters: True (allowed: an"),
        (lambda o: LinearBeta(o, "nu", 1.0, 3), ValueError, "end: 1.0 (allowed: 0 <= end < 1)"),
        (
            lambda o: LinearBeta(o, "nu", 0.9, -1),
            ValueError,
            "total_iters: -1 (allowed: an integer",
        ),
        (lambda o: ConstantBeta(o, "nu", -0.1, 3), ValueError, "value: -0.1 (allowed: 0 <= value"),
        (lambda o: RaiseBeta(o, "nu", 0.9, 2.5), ValueError, "milestone: 2.5 (allowed: an integer"),
        (lambda o: StepBeta(o, "nu", [3, 3], [0.1, 0.2]), ValueError, "allowed: increasing"),
        (lambda o: StepBeta(o, "nu", [3], [0.1, 0.2]), ValueError, "allowed: increasing"),
        (lambda o: LinearBeta(o.param_groups, "nu", 0.9, 3), TypeError, "list is not an Optimizer"),
        (lambda o: LinearBeta(o, "nu", 0.9, 3, last_epoch=2), KeyError, "initial_betas"),
        (
            lambda o: LinearBeta(torch.optim.SGD([Parameter(torch.ones(1))]), "nu", 0.9, 3),
            ValueError,
            "SGD has no betas in param_groups[0]",
        ),
    ],
)
def test_bad_input_gets_a_clear_line(make, error, line):
    with pytest.raises(error) as caught:
        make(optimizer())
    assert line in str(caught.value)


def test_integers_of_numpy_and_generators_are_taken():
    linear = LinearBeta(optimizer(), "nu", 0.9, total_iters=np.int64(4))
    assert curve(linear, 7) == pytest.approx(EXPECTED["linear"], abs=1e-15)
    step = StepBeta(optimizer(), "nu", (x for x in (2, 4)), (x for x in (0.7, 0.9)))
    assert curve(step, 7) == pytest.approx(EXPECTED["step"], abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_tensor_never_reaches_1(dtype):
    """At nu = 1 the second moments would stay, or in the first step be 0 / 0."""
    betas = (torch.tensor(0.9, dtype=dtype), torch.tensor(0.5, dtype=dtype))
    schedule = LinearBeta(optimizer(betas=betas), "nu", end=1 - 2**-53, total_iters=1)
    schedule.step()
    assert betas[1] == torch.nextafter(torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype))


def test_a_schedule_of_ones_own():
    class Sawtooth(BetaScheduler):
        def get_beta(self, initial):
            return initial * (self.last_epoch % 3) / 3

    assert curve(Sawtooth(optimizer(), "mu"), 4) == pytest.approx([0, 0.3, 0.6, 0])
