"""Checks that both kernels behind fused=True share: the CPU's (test_kernels.py) and CUDA's."""

import contextlib
import copy

import pytest
import torch
from torch.nn import Parameter

from laprop import LaProp
from laprop.kernels import kernel_for, tensors


@contextlib.contextmanager
def counted(device="cpu"):
    """Count the kernel's steps: the list gets, for each of them, the parameters that it moved."""
    kernel, taken = type(kernel_for(device)), []
    step = kernel.step

    def counting(self, batch, *rest):
        made = step(self, batch, *rest)
        if made:
            taken.append([*batch.params])
        return made

    kernel.step = counting
    try:
        yield taken
    finally:
        kernel.step = step


@contextlib.contextmanager
def asked(how):
    """Ask torch for its tensors as since 2.10 ("directly"), or as before ("by capsules")."""
    exchange = tensors._exchange()
    before = exchange.describe
    if how == "by capsules":
        exchange.describe = None
    elif before is None:
        pytest.skip("this version of torch has capsules alone")
    try:
        yield
    finally:
        exchange.describe = before


def give_gradients(params, t, scale=1.0):
    """Gradients that the step ``t`` decides, the same for every layout and dtype."""
    for i, param in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * t + i)
        grad = torch.randn(param.shape, generator=generator) * scale
        param.grad = torch.empty_like(param).copy_(grad)


each_way_to_ask = pytest.mark.parametrize("how", ["directly", "by capsules"])


def taken_by_the_kernel(optimizer, device="cpu"):
    """Make one step; return how many parameters the kernel moved."""
    with counted(device) as taken:
        optimizer.step()
    return sum(map(len, taken))


def state_dicts_go_both_ways(one, other, train, device="cpu"):
    """Train with fused, for-loop and foreach in turn on one state, also through load_state_dict.

    ``one`` is trained by the for-loop alone, ``other``, equal at first, by all three. Returns their
    optimizers.
    """
    kinds = [{"fused": True}, {"foreach": False}, {"foreach": True}]
    options = {"amsgrad": True, "centered": True, "centered_warmup": 2, "weight_decay": 0.01}
    reference = LaProp(one, foreach=False, **options)
    train(one, reference, range(9))
    optimizer = LaProp(other, **options)
    for i in range(9):
        kind = {"fused": False, "foreach": False} | kinds[i % 3]
        if i % 2:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = LaProp(other, **options)
            optimizer.load_state_dict(saved)
        optimizer.param_groups[0].update(kind)
        with counted(device) as taken:
            train(other, optimizer, [i])
        assert sum(map(len, taken)) == ("fused" in kinds[i % 3]) * len(other)
    return reference, optimizer


def autograd_notices_the_step(device):
    """Autograd must see that a step changed the weights in place."""
    param = Parameter(torch.ones(3, device=device))
    loss = (param**2).sum()
    param.grad = torch.ones_like(param)
    LaProp([param], fused=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def an_lr_that_rounding_made_negative_counts_as_0(device):
    """A step does not read an lr that is a tensor, so the kernel has to see it."""
    for options in (
        {},
        {"lr_weighted_correction": False},
        {"lr_in_momentum": False},
        {"decay_by_lr": True},
    ):
        results = []
        for lr in (0.0, -1.85e-20):
            param = Parameter(torch.ones(20, device=device))
            rate = torch.tensor(1e-3, dtype=torch.float64, device=device)
            optimizer = LaProp([param], lr=rate, weight_decay=0.1, fused=True, **options)
            rate.fill_(lr)
            for t in range(2):  # the gradient is 0 in the first step
                param.grad = torch.full_like(param, float(t))
                assert taken_by_the_kernel(optimizer, device) == 1
            assert (param == 1).all()
            results.append(optimizer.state[param])
        torch.testing.assert_close(*results, rtol=0, atol=0)
